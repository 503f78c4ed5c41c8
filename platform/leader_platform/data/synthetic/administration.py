"""The administrative fields of the synthetic cohort: who the patient is, and how a stay begins and ends.

None of them bears on the drugs. They hold indices, so that each schema of tables can name things in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.random import Generator

from leader_platform.data.synthetic.arrays import NEVER, Floats, Ints, Times
from leader_platform.data.synthetic.choices import Choice
from leader_platform.data.synthetic.model import Patients, Visits
from leader_platform.data.synthetic.parameters import PROVIDERS_PER_TEAM

AGE_BANDS = (35, 65)
INSURANCE = tuple(
    Choice.from_weights([("Medicare", medicare), ("Medicaid", medicaid), ("Other", other)])
    for medicare, medicaid, other in ((14, 18, 68), (14, 18, 68), (80, 4, 16))
)
MARITAL_STATUS = tuple(
    Choice.from_weights([("SINGLE", single), ("MARRIED", married), ("WIDOWED", widowed), ("DIVORCED", 8), ("", 3)])
    for single, married, widowed in ((75, 14, 0.5), (28, 56, 5), (28, 38, 23))
)
RACE = Choice.from_weights(
    [
        ("WHITE", 64),
        ("BLACK/AFRICAN AMERICAN", 14),
        ("HISPANIC/LATINO - PUERTO RICAN", 4),
        ("OTHER", 4),
        ("ASIAN - CHINESE", 3),
        ("WHITE - OTHER EUROPEAN", 3),
        ("HISPANIC/LATINO - DOMINICAN", 2),
        ("BLACK/CAPE VERDEAN", 2),
        ("UNKNOWN", 2),
        ("ASIAN", 1.5),
        ("PATIENT DECLINED TO ANSWER", 0.5),
    ]
)
ENGLISH = 0.9
EMERGENCY_CARE = np.timedelta64(45, "m")


class Admission(IntEnum):
    """How a stay begins."""

    SAME_DAY_SURGERY = 0
    ELECTIVE = 1
    EMERGENCY = 2
    OBSERVATION = 3
    URGENT = 4


class Destination(IntEnum):
    """How a stay ends."""

    DEATH = 0
    SKILLED_NURSING = 1
    REHABILITATION = 2
    HOME_CARE = 3
    HOME = 4
    UNRECORDED = 5


@dataclass(frozen=True)
class Demographics:
    """One entry a patient; indices into the choices above, `speaks` 0 for English and 1 for another language."""

    insurance: Ints
    marital_status: Ints
    race: Ints
    speaks: Ints


@dataclass(frozen=True)
class Stays:
    """One entry a visit. Times are NaT for who did not come by the emergency department, or did not die there."""

    admission: Ints
    destination: Ints
    provider: Ints
    arrived: Times
    left_emergency: Times
    died: Times


def draw_demographics(rng: Generator, patients: Patients) -> Demographics:
    """The fields that a patient keeps over all visits."""
    uniform, band = rng.random((4, len(patients.age))), np.digitize(patients.age, AGE_BANDS)
    return Demographics(
        insurance=_by_band(INSURANCE, band, uniform[0]),
        marital_status=_by_band(MARITAL_STATUS, band, uniform[1]),
        race=RACE.draw(uniform[2]),
        speaks=(uniform[3] >= ENGLISH).astype(np.intp),
    )


def draw_stays(rng: Generator, patients: Patients, visits: Visits, died: Times) -> Stays:
    """How each stay begins and ends; `died` [patients] as `draw_deaths` returns it."""
    admission = _draw_admission(rng.random(len(visits)), visits)
    dies_here = died[visits.patient] == visits.discharged
    destination = _draw_destination(rng.random(len(visits)), patients, visits)
    waited = (30 + 300 * rng.random(len(visits))).astype("m8[m]")
    comes_by_emergency = (admission == Admission.EMERGENCY) | (admission == Admission.OBSERVATION)
    return Stays(
        admission=admission,
        destination=np.where(dies_here, Destination.DEATH, destination),
        provider=visits.team * PROVIDERS_PER_TEAM + rng.integers(PROVIDERS_PER_TEAM, size=len(visits)),
        arrived=np.where(comes_by_emergency, visits.admitted - waited, NEVER),
        left_emergency=np.where(comes_by_emergency, visits.admitted + EMERGENCY_CARE, NEVER),
        died=np.where(dies_here, visits.discharged, NEVER),
    )


def _draw_admission(uniform: Floats, visits: Visits) -> Ints:
    planned = visits.is_surgical & ~visits.is_icu & (uniform < 0.5)
    return np.select(
        [planned & (uniform < 0.3), planned, uniform < 0.55, uniform < 0.8],
        [Admission.SAME_DAY_SURGERY, Admission.ELECTIVE, Admission.EMERGENCY, Admission.OBSERVATION],
        default=Admission.URGENT,
    )


def _draw_destination(uniform: Floats, patients: Patients, visits: Visits) -> Ints:
    facility = 0.06 + 0.2 * (patients.age[visits.patient] > 75) + 0.1 * visits.is_icu + 0.08 * visits.is_surgical
    return np.select(
        [uniform < 0.75 * facility, uniform < facility, uniform < facility + 0.25, uniform < 0.97],
        [Destination.SKILLED_NURSING, Destination.REHABILITATION, Destination.HOME_CARE, Destination.HOME],
        default=Destination.UNRECORDED,
    )


def _by_band(choices: tuple[Choice, ...], band: Ints, uniform: Floats) -> Ints:
    return np.choose(band, [choice.draw(uniform) for choice in choices])

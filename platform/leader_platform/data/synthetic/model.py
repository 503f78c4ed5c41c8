"""The generative model of the synthetic cohort: what happens to patients. `docs/SYNTHETIC.md` states it in equations.

Patients are drawn many at a time: their first visits, then the second visits of those who have one, and so on, since a
visit follows from the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.random import Generator

from leader_platform.data.synthetic.arrays import NEVER, Bools, Durations, Floats, Ints, Times, hours, years
from leader_platform.data.synthetic.choices import Choice
from leader_platform.data.synthetic.parameters import NUM_TEAMS, Parameters

MAX_VISITS = 40
ONSET, RELAPSE = 0.06, 0.12
TASTE_SIGMA, SAME_TEAM = 0.35, 0.7
INTENSITY_MEAN, INTENSITY_SHAPE = 1.2, 5.0
ICD10_START = np.datetime64("2015-10")
FIRST_ANCHOR_YEAR, LAST_ANCHOR_YEAR = 2110, 2176
FIRST_YEARS = Choice.from_weights([("2008", 0.34), ("2011", 0.24), ("2014", 0.20), ("2017", 0.16), ("2020", 0.06)])


@dataclass(frozen=True)
class Patients:
    """One entry a patient.

    `age` is the true one in `anchor_year`, the year of the first visit, which lies in the three years from `first_year`
    of the real calendar, `calendar_shift` years before. `taste` is [patients, drugs].
    """

    is_female: Bools
    age: Ints
    anchor_year: Ints
    first_year: Ints
    calendar_shift: Ints
    team: Ints
    taste: Floats


@dataclass(frozen=True)
class Visits:
    """One entry a hospital stay. `patient` counts within the block; `version` indexes `ICD_VERSIONS`.

    `sources` [visits, sources] and `drugs` [visits, drugs] are what was present and what was given.
    """

    patient: Ints
    admitted: Times
    discharged: Times
    version: Ints
    team: Ints
    is_icu: Bools
    is_surgical: Bools
    sources: Bools
    drugs: Bools

    def __len__(self) -> int:
        return len(self.patient)


def draw_patients(parameters: Parameters, rng: Generator, num_patients: int) -> Patients:
    """Patients as they are before their first visit."""
    first_year = np.array(FIRST_YEARS.values, dtype=np.intp)[FIRST_YEARS.draw(rng.random(num_patients))]
    anchor_year = rng.integers(FIRST_ANCHOR_YEAR, LAST_ANCHOR_YEAR + 1, num_patients)
    return Patients(
        is_female=rng.random(num_patients) < 0.52,
        age=np.clip(np.rint(rng.normal(61, 18, num_patients)), 18, 95).astype(np.intp),
        anchor_year=anchor_year,
        first_year=first_year,
        calendar_shift=anchor_year - first_year - rng.integers(3, size=num_patients),
        team=rng.integers(NUM_TEAMS, size=num_patients),
        taste=np.exp(rng.normal(-(TASTE_SIGMA**2) / 2, TASTE_SIGMA, (num_patients, len(parameters.drugs)))),
    )


def draw_visits(parameters: Parameters, rng: Generator, patients: Patients, uses_icd10: bool) -> Visits:
    """All visits of the patients: first visits, then second visits, and so on.

    Without `uses_icd10` every visit has the codes and the drugs of the years before October 2015.
    """
    course = _Course(parameters, rng, patients, uses_icd10)
    new_year = (patients.anchor_year - 1970).astype("M8[Y]").astype("M8[m]")
    patient = np.arange(len(patients.age))
    admitted = new_year + rng.integers(365 * 24 * 60, size=len(patient)).astype("m8[m]")
    rounds = [course.draw_round(patient, admitted, onset=1.0)]
    num_visits = _num_visits(rng, course.conditions[:, parameters.conditions.is_chronic].sum(axis=1))
    while (goes_on := num_visits[patient] > len(rounds)).any():
        patient, discharged = patient[goes_on], rounds[-1].discharged[goes_on]
        rounds.append(course.draw_round(patient, discharged + _gap(rng, num_visits[patient]), onset=ONSET))
    columns = (field.name for field in fields(Visits))
    return Visits(*(np.concatenate([getattr(visits, column) for visits in rounds]) for column in columns))


def draw_deaths(rng: Generator, patients: Patients, visits: Visits) -> Times:
    """[patients]: the end of the last visit for who dies there, a later time, or NaT."""
    num_patients = len(patients.age)
    last = np.zeros(num_patients, dtype=np.intp)
    np.maximum.at(last, visits.patient, np.arange(len(visits)))  # rounds follow each other in time
    here = rng.random(num_patients) < 0.008 + 0.09 * visits.is_icu[last] + 0.01 * (patients.age > 75)
    later = rng.random(num_patients) < 0.05 + 0.004 * np.maximum(patients.age - 50, 0)
    discharged = visits.discharged[last]
    days = 1 + rng.exponential(150, num_patients)
    return np.where(here, discharged, np.where(later, discharged + hours(24 * days), NEVER))


def _num_visits(rng: Generator, num_chronic: Ints) -> Ints:
    extra = rng.lognormal(-0.36 + 0.075 * num_chronic, 1.08)
    return np.minimum(1 + extra, MAX_VISITS).astype(np.intp)


def _gap(rng: Generator, num_visits: Ints) -> Durations:
    """Time at home. Frequent visitors come sooner, which also keeps every history within about a decade."""
    return hours(24 * (1 + rng.exponential(np.minimum(220.0, 1800 / num_visits))))


class _Course:
    """A block of patients on their way through time: who has what and takes what, [patients, conditions or drugs]."""

    def __init__(self, parameters: Parameters, rng: Generator, patients: Patients, uses_icd10: bool) -> None:
        self._parameters, self._rng, self._patients, self._uses_icd10 = parameters, rng, patients, uses_icd10
        shape = (len(patients.age), len(parameters.conditions.names))
        self.conditions: Bools = np.zeros(shape, dtype=bool)
        self._variants: Floats = np.zeros(shape)
        self._drugs: Bools = np.zeros((len(patients.age), len(parameters.drugs)), dtype=bool)

    def draw_round(self, patient: Ints, admitted: Times, onset: float) -> Visits:
        """One visit of each of `patient`, in which a chronic condition begins with `onset` of its probability."""
        rng, patients = self._rng, self._patients
        age = patients.age[patient] + years(admitted) - patients.anchor_year[patient]
        real_month = admitted.astype("M8[M]") - 12 * patients.calendar_shift[patient].astype("m8[M]")
        version = (self._uses_icd10 & (real_month >= ICD10_START)).astype(np.intp)
        is_known = rng.random(len(patient)) < SAME_TEAM
        team = np.where(is_known, patients.team[patient], rng.integers(NUM_TEAMS, size=len(patient)))
        self._draw_conditions(patient, age, onset)
        settings, sources = self._draw_sources(patient)
        self._draw_drugs(patient, age, sources, patients.taste[patient] * self._parameters.habit[team], version)
        num_acute = (self.conditions[patient] & ~self._parameters.conditions.is_chronic).sum(axis=1)
        is_icu, is_surgical = settings.T
        stay = hours(_stay_hours(rng, num_acute, is_icu, is_surgical))
        drugs = self._drugs[patient]
        return Visits(patient, admitted, admitted + stay, version, team, is_icu, is_surgical, sources, drugs)

    def _draw_conditions(self, patient: Ints, age: Ints, onset: float) -> None:
        table, had = self._parameters.conditions, self.conditions[patient]
        kept, passed = had & table.is_chronic, had & ~table.is_chronic
        decades, is_female = (age - 60) / 10, self._patients.is_female[patient]
        odds = table.log_odds_at_60 + np.outer(decades, table.age_per_decade) + np.outer(is_female, table.female)
        odds[table.excluded[is_female.astype(np.intp)]] = -np.inf
        odds[(age[:, None] < table.age_min) | (age[:, None] > table.age_max)] = -np.inf
        present, probability = kept.copy(), np.zeros(had.shape)
        share = np.where(table.is_chronic, onset, 1.0)
        uniform = self._rng.random(had.shape)
        for level in table.levels:
            p = 1 / (1 + np.exp(-(odds[:, level] + _total(present, table.raised[:, level]))))
            relapse = RELAPSE * (passed[:, level] & (p > 0))
            present[:, level] |= uniform[:, level] < 1 - (1 - share[level] * p) * (1 - relapse)
            probability[:, level] = p
        # Nobody comes without an acute reason: who has none gets one, in proportion to the probabilities.
        healthy = np.flatnonzero(~(present & ~table.is_chronic).any(axis=1))
        weights = np.cumsum(probability[healthy] * ~table.is_chronic, axis=1)
        reason = weights > self._rng.random((len(healthy), 1)) * weights[:, -1:]
        present[healthy, reason.argmax(axis=1)] = True
        self._variants[patient] = np.where(kept, self._variants[patient], self._rng.random(had.shape))
        self.conditions[patient] = present

    def _draw_sources(self, patient: Ints) -> tuple[Bools, Bools]:
        """[visits, settings] and [visits, sources]."""
        table, present = self._parameters.conditions, self.conditions[patient]
        place = self._variants[np.ix_(patient, table.variant_of)]
        variants = present[:, table.variant_of] & (table.variant_lower <= place) & (place < table.variant_upper)
        settings = self._noisy_or(_total(present, table.setting_rate))
        causes = np.concatenate([present, variants, settings], axis=1)
        procedures = self._noisy_or(_total(causes, self._parameters.procedure_rate))
        return settings, np.concatenate([causes, procedures], axis=1)

    def _noisy_or(self, rate: Floats) -> Bools:
        """Whether at least one cause acts, of causes whose rates sum up to `rate`."""
        return self._rng.random(rate.shape) < -np.expm1(-rate)

    def _draw_drugs(self, patient: Ints, age: Ints, sources: Bools, preference: Floats, version: Ints) -> None:
        parameters, taken = self._parameters, self._drugs[patient]
        decades, is_female = (age - 60) / 10, self._patients.is_female[patient]
        effect = np.exp(np.outer(decades, parameters.age_effect) + np.outer(is_female, parameters.female_effect))
        rate = parameters.base_rate * effect + _total(sources, parameters.indication_rate)
        era = parameters.era_factor[version]
        intensity = self._rng.gamma(INTENSITY_SHAPE, INTENSITY_MEAN / INTENSITY_SHAPE, (len(patient), 1))
        absent = np.exp(-intensity * preference * era * rate) * (1 - era * parameters.continuation * taken)
        present = self._rng.random(absent.shape) > absent
        for group in parameters.exclusive_groups:
            _keep_one(present, np.where(present, absent - taken, np.inf), group)
        present |= self._rng.random(absent.shape) < era * -np.expm1(-_total(present, parameters.companion_rate))
        self._drugs[patient] = present


def _total(present: Bools, effect: Floats) -> Floats:
    """[visits, effects]: the sum of the effects of what is present.

    A matrix product, but most causes are absent, and its threads cost more than they gain on products this small.
    """
    acting = np.flatnonzero(effect.any(axis=1))
    visit, cause = np.nonzero(present[:, acting])
    total = np.zeros((len(present), effect.shape[1]))
    visits, starts = np.unique(visit, return_index=True)
    total[visits] = np.add.reduceat(effect[acting[cause]], starts, axis=0)
    return total


def _keep_one(present: Bools, rank: Floats, group: Ints) -> None:
    """Leaves, in place, at most one drug of the group to each visit: the one of the lowest rank."""
    best = group[rank[:, group].argmin(axis=1)]
    visits = np.arange(len(present))
    stays = present[visits, best]
    present[:, group] = False
    present[visits, best] = stays


def _stay_hours(rng: Generator, num_acute: Ints, is_icu: Bools, is_surgical: Bools) -> Floats:
    median_days = 2.3 * 1.13 ** np.minimum(num_acute, 8) * np.where(is_icu, 1.7, 1.0) * np.where(is_surgical, 1.2, 1.0)
    return np.clip(24 * median_days * rng.lognormal(0, 0.7, len(num_acute)), 5, 24 * 60)

"""What the hospital of the synthetic cohort writes down of a visit: diagnosis codes, procedure codes and orders.

`docs/SYNTHETIC.md` states how in equations. Each table has one entry a row, in the order of the visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from leader_platform.data.synthetic.arrays import Bools, Floats, Ints, Times, begins, count_within, hours
from leader_platform.data.synthetic.choices import Choice
from leader_platform.data.synthetic.model import Visits
from leader_platform.data.synthetic.parameters import PROVIDERS_PER_TEAM, Parameters

SECOND_CODE, MISCODED = 0.42, 0.04
SECOND_PROCEDURE_CODE = 0.6
NO_DIAGNOSES, NO_PRESCRIPTIONS = 0.01, 0.03
IN_FLUID = 0.6
ADDITIVE = "Soln"
FLUIDS = Choice.from_weights(
    [
        ("0.9% Sodium Chloride", 45),
        ("5% Dextrose", 25),
        ("Bag", 20),
        ("Iso-Osmotic Dextrose", 6.5),
        ("Sterile Water", 2.5),
        (ADDITIVE, 1),
    ]
)


@dataclass(frozen=True)
class Diagnoses:
    """`code` indexes the code book of diagnoses; `position` counts from 1 within a visit, the principal one first."""

    visit: Ints
    position: Ints
    code: Ints


@dataclass(frozen=True)
class Procedures:
    """`code` indexes the code book of procedures; `day` counts from the day of admission."""

    visit: Ints
    position: Ints
    code: Ints
    day: Ints


@dataclass(frozen=True)
class Orders:
    """Times are whole hours, so the first may seem to precede the admission; `fluid` indexes FLUIDS, -1 is none."""

    visit: Ints
    drug: Ints
    start: Times
    stop: Times
    fluid: Ints
    provider: Ints
    pharmacy_id: Ints


def draw_diagnoses(parameters: Parameters, rng: Generator, visits: Visits) -> Diagnoses:
    """The codes of what was present: some left out, some twice in other words, some wrong; none twice in a visit."""
    conditions, book = parameters.conditions, parameters.diagnosis_codes
    names = (*conditions.names, *conditions.variant_names)
    condition = np.concatenate([np.arange(len(conditions.names)), conditions.variant_of])
    keys = book.keys_of(names)
    is_coded = (rng.random(len(visits)) >= NO_DIAGNOSES)[:, None] & (keys[:, 0] >= 0)
    visit, source = np.nonzero(visits.sources[:, : len(names)] & is_coded)
    chance = rng.random((2, len(visit))) / conditions.recorded[condition[source]]
    visit, source = np.tile(visit, (2, 1)), np.tile(source, (2, 1))
    written = chance < np.array([[1.0], [SECOND_CODE]])
    visit, source = visit[written], source[written]
    version = visits.version[visit]
    wrong = rng.random(len(visit)) < MISCODED
    key = np.where(wrong, book.draw_keys(version, rng.random(len(visit))), keys[source, version])
    code = book.draw(key, rng.random(len(visit)))
    is_acute = ~conditions.is_chronic[condition[source]]
    rank = _principal_first(visit, is_acute, rng.random(len(visit)))
    order = np.lexsort((rank, code, visit))
    order = order[begins(visit[order], code[order])]
    order = order[np.lexsort((rank[order], visit[order]))]
    return Diagnoses(visit[order], count_within(visit[order]), code[order])


def draw_procedures(parameters: Parameters, rng: Generator, visits: Visits) -> Procedures:
    """The codes of what was done: one or two of a procedure, which took place on the same day."""
    book, first = parameters.procedure_codes, visits.sources.shape[1] - len(parameters.procedures)
    visit, procedure = np.nonzero(visits.sources[:, first:])
    stay_days = (visits.discharged - visits.admitted)[visit] / np.timedelta64(1, "D")
    day = (rng.random(len(visit)) ** 2 * stay_days).astype(np.intp)
    num_codes = 1 + (rng.random(len(visit)) < SECOND_PROCEDURE_CODE)
    visit, procedure, day = (np.repeat(column, num_codes) for column in (visit, procedure, day))
    key = book.keys_of(parameters.procedures)[procedure, visits.version[visit]]
    code = book.draw(key, rng.random(len(visit)))
    order = np.lexsort((code, visit))
    kept = np.sort(order[begins(visit[order], code[order])])
    return Procedures(visit[kept], count_within(visit[kept]), code[kept], day[kept])


def draw_orders(parameters: Parameters, rng: Generator, visits: Visits) -> Orders:
    """One order or more of each drug, from the first day on or later, by the providers of the visit's team."""
    is_prescribed = rng.random(len(visits)) >= NO_PRESCRIPTIONS
    visit, drug = np.nonzero(visits.drugs & is_prescribed[:, None])
    stay_hours = (visits.discharged - visits.admitted) / np.timedelta64(1, "h")
    num_more = rng.poisson(parameters.extra_orders[drug] * np.minimum(stay_hours[visit] / 24, 12) / 3)
    visit, drug = np.repeat(visit, 1 + num_more), np.repeat(drug, 1 + num_more)
    num_orders, limit = len(visit), stay_hours[visit]
    starts_early = begins(visit, drug) & (rng.random(num_orders) < parameters.early_start[drug])
    late = rng.random(num_orders) * 0.95 * limit
    start = np.where(starts_early, np.minimum(rng.exponential(10.0, num_orders), 0.9 * limit), late)
    stop = np.minimum(start + 1 + rng.exponential(36.0, num_orders), limit)
    has_fluid = parameters.is_diluted[drug] & (rng.random(num_orders) < IN_FLUID)
    return Orders(
        visit=visit,
        drug=drug,
        start=_on_the_hour(visits.admitted[visit] + hours(start)),
        stop=_on_the_hour(visits.admitted[visit] + hours(stop)),
        fluid=np.where(has_fluid, FLUIDS.draw(rng.random(num_orders)), -1),
        provider=visits.team[visit] * PROVIDERS_PER_TEAM + rng.integers(PROVIDERS_PER_TEAM, size=num_orders),
        pharmacy_id=rng.integers(1_000_000, 100_000_000, num_orders),
    )


def products(orders: Orders, num_drugs: int) -> tuple[Ints, Ints]:
    """The rows that prescriptions show: of each, the order and what it names, a drug or, after it, its fluid.

    Products are numbered as drugs, followed by FLUIDS.
    """
    order = np.repeat(np.arange(len(orders.visit)), 1 + (orders.fluid >= 0))
    return order, np.where(begins(order), orders.drug[order], num_drugs + orders.fluid[order])


def _principal_first(visit: Ints, is_acute: Bools, rank: Floats) -> Floats:
    """The rank, but -1 for one row of each visit: an acute condition, which brought the patient in, if it has one."""
    order = np.lexsort((rank, ~is_acute, visit))
    is_principal = np.zeros(len(visit), dtype=bool)
    is_principal[order[begins(visit[order])]] = True
    return np.where(is_principal, -1.0, rank)


def _on_the_hour(times: Times) -> Times:
    return times.astype("M8[h]").astype("M8[m]")

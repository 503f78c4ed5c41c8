"""One block of the synthetic cohort, complete: drawn from a seed and the block's number, whatever the cohort's size."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from leader_platform.data.synthetic.administration import Demographics, Stays, draw_demographics, draw_stays
from leader_platform.data.synthetic.arrays import Ints, Times
from leader_platform.data.synthetic.model import Patients, Visits, draw_deaths, draw_patients, draw_visits
from leader_platform.data.synthetic.parameters import Parameters
from leader_platform.data.synthetic.records import (
    Diagnoses,
    Orders,
    Procedures,
    draw_diagnoses,
    draw_orders,
    draw_procedures,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PATIENTS_PER_BLOCK = 1000
# A block has 2,500 visits or so. Its ids are its own, so blocks need not know of each other.
VISIT_IDS_PER_BLOCK = 5000
MAX_PATIENTS = 2_000_000
ID_RANGE, ID_STEP = MAX_PATIENTS // PATIENTS_PER_BLOCK * VISIT_IDS_PER_BLOCK, 6_180_339

Rows = TypeVar("Rows", bound="DataclassInstance")


@dataclass(frozen=True)
class Block:
    """`PATIENTS_PER_BLOCK` patients. Visits stand in the order of patients and ids, not of time.

    `subject_id` [patients] and `hadm_id` [visits] are below ID_RANGE, unique over all blocks, and say nothing of time.
    """

    number: int
    subject_id: Ints
    patients: Patients
    demographics: Demographics
    died: Times
    hadm_id: Ints
    visits: Visits
    stays: Stays
    diagnoses: Diagnoses
    procedures: Procedures
    orders: Orders

    def first(self, num_patients: int) -> Block:
        """The block without the patients that follow."""
        of_patients = slice(num_patients)
        num_visits = int(np.searchsorted(self.visits.patient, num_patients))
        of_visits = slice(num_visits)
        return Block(
            number=self.number,
            subject_id=self.subject_id[of_patients],
            patients=_rows(self.patients, of_patients),
            demographics=_rows(self.demographics, of_patients),
            died=self.died[of_patients],
            hadm_id=self.hadm_id[of_visits],
            visits=_rows(self.visits, of_visits),
            stays=_rows(self.stays, of_visits),
            diagnoses=_rows(self.diagnoses, slice(np.searchsorted(self.diagnoses.visit, num_visits))),
            procedures=_rows(self.procedures, slice(np.searchsorted(self.procedures.visit, num_visits))),
            orders=_rows(self.orders, slice(np.searchsorted(self.orders.visit, num_visits))),
        )


def draw_block(parameters: Parameters, seed: int, number: int, uses_icd10: bool = True) -> Block:
    """Block `number` of the cohort `seed`; without `uses_icd10` all of it is from before October 2015."""
    rng = np.random.default_rng([seed, number])
    patients = draw_patients(parameters, rng, PATIENTS_PER_BLOCK)
    visits = draw_visits(parameters, rng, patients, uses_icd10)
    died = draw_deaths(rng, patients, visits)
    assert len(visits) <= VISIT_IDS_PER_BLOCK
    hadm_id = _scattered(number * VISIT_IDS_PER_BLOCK + rng.permutation(len(visits)), seed)
    order = np.lexsort((hadm_id, visits.patient))
    visits = _rows(visits, order)
    return Block(
        number=number,
        subject_id=_scattered(number * PATIENTS_PER_BLOCK + np.arange(PATIENTS_PER_BLOCK), seed),
        patients=patients,
        demographics=draw_demographics(rng, patients),
        died=died,
        hadm_id=hadm_id[order],
        visits=visits,
        stays=draw_stays(rng, patients, visits, died),
        diagnoses=draw_diagnoses(parameters, rng, visits),
        procedures=draw_procedures(parameters, rng, visits),
        orders=draw_orders(parameters, rng, visits),
    )


def _rows(table: Rows, places: Ints | slice) -> Rows:
    """The same table, a dataclass of arrays, with the rows at `places`."""
    return replace(table, **{field.name: getattr(table, field.name)[places] for field in fields(table)})


def _scattered(serial: Ints, seed: int) -> Ints:
    """A permutation of 0 .. ID_RANGE - 1: unique ids without remembering those given out."""
    return (serial * ID_STEP + seed * 7_654_321 % ID_RANGE) % ID_RANGE

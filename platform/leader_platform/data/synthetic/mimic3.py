"""The synthetic cohort as tables of MIMIC-III v1.4.

As there: only ICD-9, text in quotation marks, prescriptions dated to the day, and for who is older than 89 at any
admission a date of birth 300 years before the first. Columns that the model does not know (`GSN`, `NDC`, `RELIGION`,
...) are empty. Ids take more than v1.4's six digits, which would not do for a larger cohort. It is the hospital's whole
cohort, not the intensive care units' alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from leader_platform.data.synthetic.administration import MARITAL_STATUS, RACE
from leader_platform.data.synthetic.arrays import NEVER, Ints, Times, years
from leader_platform.data.synthetic.blocks import Block
from leader_platform.data.synthetic.choices import ICD_VERSIONS, CodeBook
from leader_platform.data.synthetic.columns import join, numbers, pick, quoted, times
from leader_platform.data.synthetic.parameters import Drug, Parameters
from leader_platform.data.synthetic.records import ADDITIVE, FLUIDS, Diagnoses, Orders, Procedures, products

HEADERS = {
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,ADMISSION_LOCATION,"
    "DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,EDREGTIME,EDOUTTIME,DIAGNOSIS,"
    "HOSPITAL_EXPIRE_FLAG,HAS_CHARTEVENTS_DATA",
    "DIAGNOSES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
    "PROCEDURES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
    "PRESCRIPTIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTDATE,ENDDATE,DRUG_TYPE,DRUG,DRUG_NAME_POE,"
    "DRUG_NAME_GENERIC,FORMULARY_DRUG_CD,GSN,NDC,PROD_STRENGTH,DOSE_VAL_RX,DOSE_UNIT_RX,FORM_VAL_DISP,FORM_UNIT_DISP,"
    "ROUTE",
    "D_ICD_DIAGNOSES": "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE",
    "D_ICD_PROCEDURES": "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE",
}
FIRST_SUBJECT_ID, FIRST_HADM_ID = 1, 100_000
# Row ids are unique and ascend, with gaps between blocks.
ROW_IDS_PER_BLOCK = 1_000_000
OLDEST_PUBLISHED, YEARS_OF_OLDER = 89, 300
SHORT_TITLE_LENGTH = 24

INSURANCE = ("Medicare", "Medicaid", "Private")
LANGUAGE = ("ENGL", "")
# In the order of Admission and Destination.
ADMISSION_TYPE = ("ELECTIVE", "ELECTIVE", "EMERGENCY", "EMERGENCY", "URGENT")
ADMISSION_LOCATION = (*["PHYS REFERRAL/NORMAL DELI"] * 2, *["EMERGENCY ROOM ADMIT"] * 2, "TRANSFER FROM HOSP/EXTRAM")
DISCHARGE_LOCATION = ("DEAD/EXPIRED", "SNF", "REHAB/DISTINCT PART HOSP", "HOME HEALTH CARE", "HOME", "")
ETHNICITY = tuple("UNKNOWN/NOT SPECIFIED" if name == "UNKNOWN" else name for name in RACE.values)


class Mimic3:
    """Writes blocks as lines of MIMIC-III's tables."""

    folder, uses_icd10 = "", False
    headers: ClassVar = {name: ",".join(map(quoted, header.split(","))) for name, header in HEADERS.items()}

    def __init__(self, parameters: Parameters) -> None:
        self._diagnosis_codes, self._procedure_codes = parameters.diagnosis_codes, parameters.procedure_codes
        self._num_drugs = len(parameters.drugs)
        self._products = [*map(_drug_fields, parameters.drugs), *map(_fluid_fields, FLUIDS.values)]

    def title_lines(self) -> dict[str, pa.Array]:
        """Every ICD-9 code of the parameter tables, whether or not a visit uses it."""
        return {"D_ICD_DIAGNOSES": _titles(self._diagnosis_codes), "D_ICD_PROCEDURES": _titles(self._procedure_codes)}

    def lines(self, block: Block) -> dict[str, pa.Array]:
        """The lines of each table, in the order of patients, visits, and within the visit."""
        subject_id = numbers(FIRST_SUBJECT_ID + block.subject_id)
        ids = join(pick(subject_id, block.visits.patient), numbers(FIRST_HADM_ID + block.hadm_id))
        tables = {
            "PATIENTS": join(subject_id, *_patient_columns(block)),
            "ADMISSIONS": join(ids, *_admission_columns(block, self._diagnosis_codes)),
            "DIAGNOSES_ICD": _coded(ids, block.diagnoses, self._diagnosis_codes),
            "PROCEDURES_ICD": _coded(ids, block.procedures, self._procedure_codes),
            "PRESCRIPTIONS": self._prescriptions(block.orders, ids),
        }
        return {name: _numbered(lines, block.number * ROW_IDS_PER_BLOCK) for name, lines in tables.items()}

    def _prescriptions(self, orders: Orders, ids: pa.Array) -> pa.Array:
        icustay_id = ""
        lines = join(pick(ids, orders.visit), icustay_id, _midnight(orders.start), _midnight(orders.stop))
        order, product = products(orders, self._num_drugs)
        return join(pick(lines, order), pick(self._products, product))


def _numbered(lines: pa.Array, first: int) -> pa.Array:
    assert len(lines) < ROW_IDS_PER_BLOCK
    return join(numbers(first + 1 + np.arange(len(lines))), lines)


def _titles(book: CodeBook) -> pa.Array:
    rows = zip(book.codes, book.titles, strict=True)
    names = [(code, title[:SHORT_TITLE_LENGTH], title) for (version, code), title in rows if version == ICD_VERSIONS[0]]
    return _numbered(pa.array([",".join(map(quoted, name)) for name in names]), 0)


def _coded(ids: pa.Array, rows: Diagnoses | Procedures, book: CodeBook) -> pa.Array:
    return join(pick(ids, rows.visit), numbers(rows.position), _text([code for _, code in book.codes], rows.code))


def _drug_fields(drug: Drug) -> str:
    """The columns from `DRUG_TYPE` to `ROUTE`."""
    names, dosing = (drug.name, drug.name, drug.name), (drug.dose, drug.unit, "1", drug.form, drug.route)
    return ",".join(map(quoted, ("MAIN", *names, drug.formulary_code, "", "", drug.strength, *dosing)))


def _fluid_fields(fluid: str) -> str:
    drug_type = "ADDITIVE" if fluid == ADDITIVE else "BASE"
    return ",".join(map(quoted, (drug_type, fluid, "", "", "", "", "", "", "100", "ml", "1", "BAG", "IV")))


def _patient_columns(block: Block) -> list[pa.Array]:
    """The columns of `PATIENTS` after the ids."""
    dies = ~np.isnat(block.stays.died)
    died_there = np.full_like(block.died, NEVER)
    died_there[block.visits.patient[dies]] = block.stays.died[dies]
    return [
        _text(("M", "F"), block.patients.is_female.astype(np.intp)),
        _midnight(_birth(block)),
        _midnight(block.died),
        _midnight(died_there),
        _midnight(np.where(np.isnat(died_there), block.died, NEVER)),
        numbers(~np.isnat(block.died)),
    ]


def _birth(block: Block) -> Times:
    """A day of the year of birth; for who is too old to be published at any visit, 300 years before the first one."""
    patients, visits = block.patients, block.visits
    starts = np.unique(visits.patient, return_index=True)[1]
    first, last = (extreme.reduceat(visits.admitted, starts).astype("M8[D]") for extreme in (np.minimum, np.maximum))
    birth_year = patients.anchor_year - patients.age
    birthday = (block.subject_id % 365).astype("m8[D]")
    month = first.astype("M8[M]")
    shifted = (month - 12 * YEARS_OF_OLDER).astype("M8[D]") + (first - month.astype("M8[D]"))
    is_older = years(last) - birth_year > OLDEST_PUBLISHED
    return np.where(is_older, shifted, (birth_year - 1970).astype("M8[Y]").astype("M8[D]") + birthday)


def _admission_columns(block: Block, book: CodeBook) -> list[pa.Array | str]:
    """The columns of `ADMISSIONS` after the ids."""
    visits, stays, who = block.visits, block.stays, block.demographics
    is_first = block.diagnoses.position == 1
    principal = np.full(len(visits), len(book.titles))
    principal[block.diagnoses.visit[is_first]] = block.diagnoses.code[is_first]
    return [
        times(visits.admitted),
        times(visits.discharged),
        times(stays.died),
        _text(ADMISSION_TYPE, stays.admission),
        _text(ADMISSION_LOCATION, stays.admission),
        _text(DISCHARGE_LOCATION, stays.destination),
        _text(INSURANCE, who.insurance[visits.patient]),
        _text(LANGUAGE, who.speaks[visits.patient]),
        "",
        _text(MARITAL_STATUS[0].values, who.marital_status[visits.patient]),
        _text(ETHNICITY, who.race[visits.patient]),
        times(stays.arrived),
        times(stays.left_emergency),
        _text([*(title.upper() for title in book.titles), ""], principal),
        numbers(~np.isnat(stays.died)),
        numbers(visits.is_icu),
    ]


def _text(values: Sequence[str], places: Ints) -> pa.Array:
    return pick([quoted(value) for value in values], places)


def _midnight(moments: Times) -> pa.Array:
    return times(moments.astype("M8[D]"))

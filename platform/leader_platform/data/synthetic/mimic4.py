"""The synthetic cohort as MIMIC-IV's `hosp` tables.

As there: dates are shifted to 2110-2200, `hadm_id` says nothing about time, ages above 89 are 91, some visits lack
diagnoses or prescriptions, and some drug names (`Bag`, `Study Drug 114`) belong to no class. Columns that the model
does not know (`gsn`, `ndc`, ...) are empty.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from leader_platform.data.synthetic.administration import MARITAL_STATUS, RACE
from leader_platform.data.synthetic.arrays import count_within
from leader_platform.data.synthetic.blocks import Block
from leader_platform.data.synthetic.choices import CodeBook
from leader_platform.data.synthetic.columns import dates, join, numbers, pick, quoted_where_needed, times
from leader_platform.data.synthetic.parameters import NUM_TEAMS, PROVIDERS_PER_TEAM, Drug, Parameters
from leader_platform.data.synthetic.records import ADDITIVE, FLUIDS, products

HEADERS = {
    "patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag",
    "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "procedures_icd": "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
    "prescriptions": "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,stoptime,drug_type,"
    "drug,formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,"
    "doses_per_24_hrs,route",
    "d_icd_diagnoses": "icd_code,icd_version,long_title",
    "d_icd_procedures": "icd_code,icd_version,long_title",
}
FIRST_SUBJECT_ID, FIRST_HADM_ID = 10_000_000, 20_000_000
OLDEST_PUBLISHED, AGE_OF_OLDER = 89, 91
INSURANCE = ("Medicare", "Medicaid", "Other")
LANGUAGE = ("ENGLISH", "?")
# In the order of Admission and Destination.
ADMISSION_TYPE = ("SURGICAL SAME DAY ADMISSION", "ELECTIVE", "EW EMER.", "EU OBSERVATION", "URGENT")
ADMISSION_LOCATION = (*["PHYSICIAN REFERRAL"] * 2, *["EMERGENCY ROOM"] * 2, "TRANSFER FROM HOSPITAL")
DISCHARGE_LOCATION = ("DIED", "SKILLED NURSING FACILITY", "REHAB", "HOME HEALTH CARE", "HOME", "")
# Made up, but in the form of the real ones.
PROVIDERS = tuple(f"P{(number + 1) * 5_231 % 0xFFFFF:05X}" for number in range(NUM_TEAMS * PROVIDERS_PER_TEAM))


class Mimic4:
    """Writes blocks as lines of MIMIC-IV's tables."""

    folder, headers, uses_icd10 = "hosp", HEADERS, True

    def __init__(self, parameters: Parameters) -> None:
        self._diagnosis_codes, self._procedure_codes = parameters.diagnosis_codes, parameters.procedure_codes
        self._num_drugs = len(parameters.drugs)
        self._products = [*map(_drug_fields, parameters.drugs), *map(_fluid_fields, FLUIDS.values)]

    def title_lines(self) -> dict[str, pa.Array]:
        """Every code of the parameter tables, whether or not a visit uses it."""
        return {"d_icd_diagnoses": _titles(self._diagnosis_codes), "d_icd_procedures": _titles(self._procedure_codes)}

    def lines(self, block: Block) -> dict[str, pa.Array]:
        """The lines of each table, in the order of patients, visits, and within the visit."""
        subject_id = numbers(FIRST_SUBJECT_ID + block.subject_id)
        ids = join(pick(subject_id, block.visits.patient), numbers(FIRST_HADM_ID + block.hadm_id))
        diagnoses, procedures = block.diagnoses, block.procedures
        return {
            "patients": join(subject_id, *_patient_columns(block)),
            "admissions": join(ids, *_admission_columns(block)),
            "diagnoses_icd": join(
                pick(ids, diagnoses.visit),
                numbers(diagnoses.position),
                pick(_codes(self._diagnosis_codes), diagnoses.code),
            ),
            "procedures_icd": join(
                pick(ids, procedures.visit),
                numbers(procedures.position),
                dates(block.visits.admitted[procedures.visit] + procedures.day.astype("m8[D]")),
                pick(_codes(self._procedure_codes), procedures.code),
            ),
            "prescriptions": self._prescriptions(block, ids),
        }

    def _prescriptions(self, block: Block, ids: pa.Array) -> pa.Array:
        orders = block.orders
        patient = block.visits.patient[orders.visit]
        number = numbers(count_within(patient))
        lines = join(
            pick(ids, orders.visit),
            numbers(orders.pharmacy_id),
            join(numbers(FIRST_SUBJECT_ID + block.subject_id[patient]), number, by="-"),
            number,
            pick(PROVIDERS, orders.provider),
            times(orders.start),
            times(orders.stop),
        )
        order, product = products(orders, self._num_drugs)
        return join(pick(lines, order), pick(self._products, product))


def _titles(book: CodeBook) -> pa.Array:
    rows = zip(_codes(book), book.titles, strict=True)
    return pa.array([f"{code},{quoted_where_needed(title)}" for code, title in rows])


def _codes(book: CodeBook) -> list[str]:
    """The columns `icd_code` and `icd_version`."""
    return [f"{code},{version}" for version, code in book.codes]


def _drug_fields(drug: Drug) -> str:
    """The columns from `drug_type` to `route`."""
    dosing = ("", drug.dose, drug.unit, "1", drug.form, "", drug.route)
    return ",".join(map(quoted_where_needed, ("MAIN", drug.name, drug.formulary_code, "", "", drug.strength, *dosing)))


def _fluid_fields(fluid: str) -> str:
    drug_type = "ADDITIVE" if fluid == ADDITIVE else "BASE"
    return ",".join((drug_type, fluid, "", "", "", "", "", "100", "mL", "1", "BAG", "", "IV"))


def _patient_columns(block: Block) -> list[pa.Array]:
    """The columns of `patients` after the id."""
    patients = block.patients
    return [
        pick(("M", "F"), patients.is_female.astype(np.intp)),
        numbers(np.where(patients.age > OLDEST_PUBLISHED, AGE_OF_OLDER, patients.age)),
        numbers(patients.anchor_year),
        join(numbers(patients.first_year), numbers(patients.first_year + 2), by=" - "),
        dates(block.died),
    ]


def _admission_columns(block: Block) -> list[pa.Array]:
    """The columns of `admissions` after the ids."""
    visits, stays, who = block.visits, block.stays, block.demographics
    return [
        times(visits.admitted),
        times(visits.discharged),
        times(stays.died),
        pick(ADMISSION_TYPE, stays.admission),
        pick(PROVIDERS, stays.provider),
        pick(ADMISSION_LOCATION, stays.admission),
        pick(DISCHARGE_LOCATION, stays.destination),
        pick(INSURANCE, who.insurance[visits.patient]),
        pick(LANGUAGE, who.speaks[visits.patient]),
        pick(MARITAL_STATUS[0].values, who.marital_status[visits.patient]),
        pick(RACE.values, who.race[visits.patient]),
        times(stays.arrived),
        times(stays.left_emergency),
        numbers(~np.isnat(stays.died)),
    ]

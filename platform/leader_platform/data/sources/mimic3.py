"""MIMIC-III's tables, v1.4 and the open demo: upper-case or lower-case names, ICD-9 alone, births instead of ages.

The birth of a patient over 89 lies 300 years before the first admission; `events.age_at` gives such a patient the age
91. Prescriptions start on a date, so at midnight: a label window of 24 hours takes in the orders of the whole day on
which it ends. Dates are shifted by patient, and by how much is not told.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from leader_platform.data.sources.events import IDS, NAME, NUMBER, TEXT, TIME, Source, checked, renamed
from leader_platform.data.sources.raw import TableSpec

_CODED = {**IDS, "seq_num": NUMBER, "icd9_code": TEXT}
_TITLED = {"icd9_code": TEXT, "long_title": TEXT}

TABLES = {
    "patients": TableSpec("PATIENTS", {"subject_id": NUMBER, "gender": TEXT, "dob": TIME}),
    "admissions": TableSpec(
        "ADMISSIONS",
        {
            **IDS,
            **dict.fromkeys(("admittime", "dischtime"), TIME),
            **dict.fromkeys(("insurance", "language", "marital_status", "ethnicity"), TEXT),
        },
        optional_columns=("dischtime",),
    ),
    "diagnoses": TableSpec("DIAGNOSES_ICD", _CODED),
    "procedures": TableSpec("PROCEDURES_ICD", _CODED),
    "medications": TableSpec(
        "PRESCRIPTIONS",
        {**IDS, "startdate": TIME, **dict.fromkeys(("drug_type", "drug", "ndc", "gsn"), NAME)},
    ),
    "diagnosis_titles": TableSpec("D_ICD_DIAGNOSES", _TITLED, required=False),
    "procedure_titles": TableSpec("D_ICD_PROCEDURES", _TITLED, required=False),
}
_EVENT_NAMES = {
    "dob": "born_at",
    "admittime": "admitted_at",
    "dischtime": "discharged_at",
    "ethnicity": "race",
    "startdate": "started_at",
    "seq_num": "position",
    "icd9_code": "code",
    "long_title": "title",
}


def read(kind: str, batch: pa.Table) -> tuple[pa.Table, Counter]:
    """A raw batch of the table of `kind` as events, and the tally of what was left out."""
    if kind == "patients":
        batch = batch.append_column("year_shift", pa.nulls(len(batch), pa.int32()))
    if "icd9_code" in batch.column_names:
        batch = batch.append_column("icd_version", pa.repeat(pa.scalar(9, NUMBER), len(batch)))
    return checked(kind, TABLES[kind].name, renamed(batch, _EVENT_NAMES))


SOURCE = Source("mimic3", TABLES, (), read, tells_year=False)

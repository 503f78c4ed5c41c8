"""MIMIC-IV's `hosp` tables, v2.2 and v3.1, whose columns read here are the same.

Ages are given at an anchor year of the patient's shifted calendar, and the anchor year is known to lie in a group of
three real years; its first year is taken. Values differ between the versions: for a language other than English v2.2
says `?`, which is read as unknown, and v3.1 names it; v3.1 tells more kinds of insurance apart.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.data.sources.events import IDS, NAME, NUMBER, PROFILE, TEXT, TIME, Source, checked, renamed
from leader_platform.data.sources.raw import TableSpec

_CODE = {"icd_code": TEXT, "icd_version": NUMBER}
_YEAR = pa.int32()

TABLES = {
    "patients": TableSpec(
        "patients",
        {
            "subject_id": NUMBER,
            "gender": TEXT,
            **dict.fromkeys(("anchor_age", "anchor_year"), _YEAR),
            "anchor_year_group": TEXT,
        },
        optional_columns=("anchor_year_group",),
    ),
    "admissions": TableSpec(
        "admissions",
        {**IDS, **dict.fromkeys(("admittime", "dischtime"), TIME), **dict.fromkeys(PROFILE, TEXT)},
        optional_columns=("dischtime",),
    ),
    "diagnoses": TableSpec("diagnoses_icd", {**IDS, "seq_num": NUMBER, **_CODE}),
    "procedures": TableSpec("procedures_icd", {**IDS, "seq_num": NUMBER, **_CODE}),
    "medications": TableSpec(
        "prescriptions",
        {**IDS, "starttime": TIME, **dict.fromkeys(("drug_type", "drug", "ndc", "gsn"), NAME)},
    ),
    "diagnosis_titles": TableSpec("d_icd_diagnoses", {**_CODE, "long_title": TEXT}, required=False),
    "procedure_titles": TableSpec("d_icd_procedures", {**_CODE, "long_title": TEXT}, required=False),
}
_EVENT_NAMES = {
    "admittime": "admitted_at",
    "dischtime": "discharged_at",
    "starttime": "started_at",
    "seq_num": "position",
    "icd_code": "code",
    "long_title": "title",
}


def read(kind: str, batch: pa.Table) -> tuple[pa.Table, Counter]:
    """A raw batch of the table of `kind` as events, and the tally of what was left out."""
    if kind == "patients":
        batch = _with_calendar(batch)
    return checked(kind, TABLES[kind].name, renamed(batch, _EVENT_NAMES))


def _with_calendar(batch: pa.Table) -> pa.Table:
    """The patients with `born_at`, 1 January of the year of birth, and `year_shift`.

    So an age is the admission's year less the year of birth, as MIMIC-IV defines it.
    """
    birth_year = pc.cast(pc.subtract(batch["anchor_year"], batch["anchor_age"]), TEXT)
    first_day = pc.binary_join_element_wise(pc.utf8_lpad(birth_year, 4, "0"), "-01-01", "")
    born_at = pc.strptime(first_day, format="%Y-%m-%d", unit="ms", error_is_null=True)
    group = pc.extract_regex(batch["anchor_year_group"], r"^\s*(?P<first>\d{4})\s*-")
    real_year = pc.cast(pc.struct_field(group, "first"), _YEAR)
    year_shift = pc.subtract(real_year, batch["anchor_year"])
    return batch.append_column("born_at", born_at).append_column("year_shift", year_shift)


SOURCE = Source("mimic4", TABLES, ("hosp",), read, tells_year=True)

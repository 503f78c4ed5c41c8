"""MIMIC-IV's `hosp` tables as events: what each raw table says about a patient, in the platform's own columns.

Each function takes one batch of one raw table and returns one Arrow table; nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from leader_platform import storage
from leader_platform.data.raw import RawTable, TableSpec, open_table

Lookup = Callable[[str], str | None]
_ID, _TEXT, _TIME = pa.int64(), pa.string(), pa.timestamp("ms")

SPECS = {
    "patients": TableSpec("patients", {"subject_id": _ID, "gender": _TEXT, "anchor_age": _ID, "anchor_year": _ID}),
    "admissions": TableSpec(
        "admissions",
        {
            "subject_id": _ID,
            "hadm_id": _ID,
            "admittime": _TIME,
            **dict.fromkeys(("insurance", "language", "marital_status", "race"), _TEXT),
        },
    ),
    "diagnoses": TableSpec(
        "diagnoses_icd", {"subject_id": _ID, "hadm_id": _ID, "seq_num": _ID, "icd_code": _TEXT, "icd_version": _ID}
    ),
    "procedures": TableSpec(
        "procedures_icd", {"subject_id": _ID, "hadm_id": _ID, "seq_num": _ID, "icd_code": _TEXT, "icd_version": _ID}
    ),
    "medications": TableSpec(
        "prescriptions", {"subject_id": _ID, "hadm_id": _ID, "starttime": _TIME, "drug_type": _TEXT, "drug": _TEXT}
    ),
    "diagnosis_titles": TableSpec("d_icd_diagnoses", {"icd_code": _TEXT, "icd_version": _ID, "long_title": _TEXT}),
    "procedure_titles": TableSpec("d_icd_procedures", {"icd_code": _TEXT, "icd_version": _ID, "long_title": _TEXT}),
}
_SUFFIX = {"diagnoses": "CM", "procedures": "PCS", "diagnosis_titles": "CM", "procedure_titles": "PCS"}


def open_tables(raw: str) -> dict[str, RawTable]:
    """All tables under `raw` or `raw/hosp`, their headers checked; `UserError` names what is missing."""
    nested = storage.join(raw, "hosp")
    directory = nested if storage.exists(nested) else raw
    opened = {kind: open_table(directory, spec) for kind, spec in SPECS.items()}
    return {kind: table for kind, table in opened.items() if table is not None}


def patients(batch: pa.Table) -> pa.Table:
    """subject_id, gender, and the year of birth in the patient's shifted calendar."""
    return pa.table(
        {
            "subject_id": batch["subject_id"],
            "gender": _clean(batch["gender"]),
            "birth_year": pc.subtract(batch["anchor_year"], batch["anchor_age"]),
        }
    )


def admissions(batch: pa.Table) -> pa.Table:
    """subject_id, hadm_id, admitted_at and the profile fields that can change between stays."""
    fields = {name: _clean(batch[name]) for name in ("insurance", "language", "marital_status", "race")}
    ids = {"subject_id": batch["subject_id"], "hadm_id": batch["hadm_id"]}
    return pa.table({**ids, "admitted_at": batch["admittime"], **fields})


def coded(kind: str, batch: pa.Table) -> pa.Table:
    """subject_id, hadm_id, position and the namespaced code of diagnoses or procedures."""
    return pa.table(
        {
            "subject_id": batch["subject_id"],
            "hadm_id": batch["hadm_id"],
            "position": batch["seq_num"],
            "code": _namespaced(kind, batch),
        }
    )


def medications(batch: pa.Table, atc: Lookup) -> pa.Table:
    """subject_id, hadm_id, started_at, drug name, and its finest ATC code (null where unmapped), of MAIN rows alone.

    BASE and ADDITIVE rows are the fluids a drug is dissolved in, not treatments of their own.
    """
    main = batch.filter(pc.equal(pc.utf8_upper(batch["drug_type"].combine_chunks()), "MAIN"))
    names = main["drug"].combine_chunks().dictionary_encode()
    codes = pa.array([None if name is None else atc(name) for name in names.dictionary.to_pylist()], _TEXT)
    return pa.table(
        {
            "subject_id": main["subject_id"],
            "hadm_id": main["hadm_id"],
            "started_at": main["starttime"],
            "drug": names.dictionary.take(names.indices),
            "atc": codes.take(names.indices),
        }
    )


def titles(kind: str, batch: pa.Table) -> pa.Table:
    """code, title."""
    return pa.table({"code": _namespaced(kind, batch), "title": _clean(batch["long_title"])})


def events(kind: str, batch: pa.Table, atc: Lookup) -> pa.Table:
    """One batch of the raw table of `kind`, in the platform's columns; `atc` maps a drug name to its ATC code."""
    if kind == "medications":
        return medications(batch, atc)
    if kind in ("diagnoses", "procedures"):
        return coded(kind, batch)
    if kind in ("diagnosis_titles", "procedure_titles"):
        return titles(kind, batch)
    return {"patients": patients, "admissions": admissions}[kind](batch)


def no_events(kind: str) -> pa.Table:
    """The empty table of events of `kind`, with its columns and types."""
    return events(kind, pa.schema(list(SPECS[kind].columns.items())).empty_table(), lambda name: None)


def _namespaced(kind: str, batch: pa.Table) -> pa.ChunkedArray:
    """`ICD9CM:4019`; without the namespace the same string is two codes (FIELD, defect 5)."""
    version = pc.cast(batch["icd_version"], _TEXT)
    return pc.binary_join_element_wise("ICD", version, f"{_SUFFIX[kind]}:", _clean(batch["icd_code"]), "")


def _clean(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Trimmed text; what says nothing (empty, `?`) is null."""
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(trimmed, pa.array(["", "?"])), pa.scalar(None, _TEXT), trimmed)

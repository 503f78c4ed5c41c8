"""MIMIC-III: what its raw tables become, in both shapes in which they are shipped, and what is counted on the way."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from support.patients_mimic3 import TABLES, read_source, write_mimic3

from leader_platform.data.sources import SOURCES
from leader_platform.data.sources.events import EVENT_SCHEMAS, age_at
from leader_platform.errors import UserError

TALLY = {
    ("fault", "DIAGNOSES_ICD: rows without a code"): 1,
    ("fault", "PRESCRIPTIONS: rows without a subject or an admission number"): 1,
    ("left out", "PRESCRIPTIONS: rows of type BASE or ADDITIVE, the fluid a drug is dissolved in"): 2,
}


def events(directory: Path, **changes: str | None) -> dict[str, list[dict]]:
    found, _ = read_source("mimic3", write_mimic3(directory, **changes))
    return {kind: table.to_pylist() for kind, table in found.items()}


def tally(directory: Path, **changes: str | None) -> Counter:
    return read_source("mimic3", write_mimic3(directory, **changes))[1]


@pytest.mark.parametrize("full", [True, False], ids=["full set", "open demo"])
def test_both_shapes_of_the_tables_are_the_same_events(tmp_path: Path, full: bool) -> None:
    found, left_out = read_source("mimic3", write_mimic3(tmp_path, full=full))
    assert {kind: len(table) for kind, table in found.items()} == {
        "patients": 3,
        "admissions": 4,
        "diagnoses": 6,
        "procedures": 3,
        "medications": 3,
        "diagnosis_titles": 2,
        "procedure_titles": 2,
    }
    assert {kind: table.schema for kind, table in found.items()} == EVENT_SCHEMAS
    assert left_out == TALLY


def test_file_names_may_be_of_either_case(tmp_path: Path) -> None:
    write_mimic3(tmp_path, full=False)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.lower()))
    assert len(read_source("mimic3", tmp_path)[0]["admissions"]) == 4


def test_patients_have_their_birth_and_no_real_calendar(tmp_path: Path) -> None:
    assert events(tmp_path)["patients"][0] == {
        "subject_id": 10,
        "gender": "F",
        "born_at": datetime(2075, 3, 13),
        "year_shift": None,
    }


def test_admissions_have_ethnicity_as_race_and_nothing_where_nothing_is_said(tmp_path: Path) -> None:
    assert events(tmp_path)["admissions"][2] == {
        "subject_id": 20,
        "hadm_id": 120000,
        "admitted_at": datetime(2130, 6, 1, 8),
        "discharged_at": datetime(2130, 6, 9, 12),
        "insurance": "Private",
        "language": None,
        "marital_status": "SINGLE",
        "race": "ASIAN - CHINESE",
    }


def test_codes_keep_their_leading_zeros_and_lose_their_dots(tmp_path: Path) -> None:
    found = events(tmp_path)
    assert [row["code"] for row in found["diagnoses"]] == [
        "ICD9CM:0389",
        "ICD9CM:E8788",
        "ICD9CM:486",
        "ICD9CM:43491",
        "ICD9CM:V5861",
        "ICD9CM:V3000",
    ]
    assert [row["code"] for row in found["procedures"]] == ["ICD9PCS:0331", "ICD9PCS:331", "ICD9PCS:0066"]


def test_procedures_that_differ_by_a_leading_zero_have_their_own_titles(tmp_path: Path) -> None:
    titles = {row["code"]: row["title"] for row in events(tmp_path)["procedure_titles"]}
    assert titles == {"ICD9PCS:0331": "Spinal tap", "ICD9PCS:331": "Incision of lung"}


def test_codes_that_lost_their_leading_zeros_are_counted_where_they_can_be_told(tmp_path: Path) -> None:
    """`66` was `0066`. `331` may be itself or `0331`, so it stays."""
    damaged = TABLES["PROCEDURES_ICD"].replace('"0066"', "66").replace('"0331"', "331")
    found, left_out = read_source("mimic3", write_mimic3(tmp_path, PROCEDURES_ICD=damaged))
    reason = "PROCEDURES_ICD: rows with a code of fewer than three characters, as a lost leading zero leaves it"
    assert left_out[("fault", reason)] == 1
    assert found["procedures"]["code"].to_pylist() == ["ICD9PCS:331", "ICD9PCS:331"]


def test_prescriptions_keep_names_and_numbers_as_they_stand(tmp_path: Path) -> None:
    """Numbers are text with leading zeros; one row of three has no start."""
    midnight = datetime(2150, 3, 13)
    found = events(tmp_path)["medications"]
    assert [(row["started_at"], row["drug"], row["ndc"], row["gsn"]) for row in found] == [
        (midnight, "Vancomycin", "00338355248", "043952"),
        (midnight, " Aspirin ", "00904404073", "004380 004381"),
        (None, 'Heparin Flush (10 units/ml), "PF"', None, None),
    ]


@pytest.mark.parametrize("absent", ["D_ICD_DIAGNOSES", "D_ICD_PROCEDURES"])
def test_tables_of_titles_may_be_absent(tmp_path: Path, absent: str) -> None:
    opened = SOURCES["mimic3"].open_tables(str(write_mimic3(tmp_path, **{absent: None})))
    kind = {"D_ICD_DIAGNOSES": "diagnosis_titles", "D_ICD_PROCEDURES": "procedure_titles"}[absent]
    assert set(EVENT_SCHEMAS) - set(opened) == {kind}


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith("D_")])
def test_a_missing_table_is_named_as_it_is_shipped(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}\.csv\.gz"):
        events(tmp_path, **{name: None})


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PRESCRIPTIONS\.csv\.gz has no column startdate, ndc;"):
        events(tmp_path, PRESCRIPTIONS=TABLES["PRESCRIPTIONS"].replace("startdate", "start").replace("ndc", "code"))


def test_the_tables_of_the_other_mimic_are_refused(tmp_path: Path) -> None:
    write_mimic3(tmp_path)
    with pytest.raises(UserError, match=r"--source"):
        SOURCES["mimic4"].open_tables(str(tmp_path))


def test_rows_without_an_admission_time_are_counted(tmp_path: Path) -> None:
    changed = TABLES["ADMISSIONS"].replace("2130-06-01 08:00:00", "", 1)
    assert tally(tmp_path, ADMISSIONS=changed)[("fault", "ADMISSIONS: rows without an admission time")] == 1


def test_a_patient_over_89_has_the_age_91_at_every_stay() -> None:
    born = datetime(1830, 6, 1)
    assert ages([(datetime(2130, 6, 1, 8), born), (datetime(2135, 1, 1), born)]) == [91, 91]


@pytest.mark.parametrize(
    ("admitted", "born", "age"),
    [
        (datetime(2150, 3, 12, 23), datetime(2075, 3, 13), 74),  # the evening before the birthday
        (datetime(2151, 3, 13, 1), datetime(2075, 3, 13), 76),  # on the birthday
        (datetime(2160, 2, 29), datetime(2160, 2, 29), 0),  # a newborn
        (
            datetime(2161, 2, 28),
            datetime(2160, 2, 29),
            0,
        ),  # a leap day's child has no birthday in February of that year
        (datetime(2161, 3, 1), datetime(2160, 2, 29), 1),
        (datetime(2160, 2, 28), datetime(2160, 2, 29), None),  # before birth
        (datetime(2160, 2, 29, 8), datetime(2160, 2, 29, 9), 0),  # dates count, hours do not
        (datetime(2180, 1, 1), datetime(2060, 1, 1), 120),
        (datetime(2181, 1, 1), datetime(2060, 1, 1), 91),
        (None, datetime(2060, 1, 1), None),
        (datetime(2060, 1, 1), None, None),
    ],
)
def test_age_is_in_full_years(admitted: datetime | None, born: datetime | None, age: int | None) -> None:
    assert ages([(admitted, born)]) == [age]


def ages(times: list[tuple[datetime | None, datetime | None]]) -> list[int | None]:
    admitted, born = (pa.array(column, pa.timestamp("ms")) for column in zip(*times, strict=True))
    found = age_at(admitted, born)
    assert found.type == pa.int32()
    return found.to_pylist()

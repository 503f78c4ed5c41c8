"""MIMIC-IV: what its raw tables become, and what is counted on the way."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from support.patients import TABLES, write_hosp
from support.patients_mimic3 import read_source

from leader_platform.data.sources import SOURCES
from leader_platform.data.sources.events import EVENT_SCHEMAS, age_at, no_events

FLUIDS = "prescriptions: rows of type BASE or ADDITIVE, the fluid a drug is dissolved in"
NO_STAY = "prescriptions: rows without a subject or an admission number"


def read(directory: Path, **changes: str | None) -> tuple[dict[str, pa.Table], Counter]:
    return read_source("mimic4", write_hosp(directory, **changes))


def rows(directory: Path, kind: str, **changes: str | None) -> list[dict]:
    return read(directory, **changes)[0][kind].to_pylist()


def test_the_hand_written_tables_leave_out_one_fluid_and_one_row_without_a_stay(tmp_path: Path) -> None:
    events, tally = read(tmp_path)
    assert {kind: table.schema for kind, table in events.items()} == EVENT_SCHEMAS
    assert tally == {("left out", FLUIDS): 1, ("fault", NO_STAY): 1}


@pytest.mark.parametrize("kind", list(EVENT_SCHEMAS))
def test_no_events_are_a_table_like_some_events(tmp_path: Path, kind: str) -> None:
    assert pa.concat_tables([no_events(kind), read(tmp_path)[0][kind]]).schema == EVENT_SCHEMAS[kind]


def test_patients_are_born_on_the_first_day_of_their_year_and_have_a_real_calendar(tmp_path: Path) -> None:
    assert rows(tmp_path, "patients")[0] == {
        "subject_id": 10,
        "gender": "F",
        "born_at": datetime(2080, 1, 1),  # 2150 - 70
        "year_shift": -136,  # 2014 - 2150
    }


def test_the_age_is_that_of_the_admissions_year(tmp_path: Path) -> None:
    """`anchor_age` 50 in 2120: 49 on the last day of 2119, 50 from the next."""
    events, _ = read(tmp_path)
    born = events["patients"].slice(1, 1)["born_at"][0].as_py()
    times = [datetime(2119, 12, 31, 23), datetime(2120, 1, 1), datetime(2122, 2, 2)]
    ages = age_at(pa.array(times, pa.timestamp("ms")), pa.array([born] * 3, pa.timestamp("ms")))
    assert ages.to_pylist() == [49, 50, 52]


@pytest.mark.parametrize("group", ["", "2014", "before 2014"])
def test_a_group_of_years_that_says_nothing_gives_no_real_calendar(tmp_path: Path, group: str) -> None:
    changed = TABLES["patients"].replace("2014 - 2016", group, 1)
    assert rows(tmp_path, "patients", patients=changed)[0]["year_shift"] is None


def test_the_group_of_years_may_be_absent(tmp_path: Path) -> None:
    changed = TABLES["patients"].replace("anchor_year_group", "something_else", 1)
    found = rows(tmp_path, "patients", patients=changed)
    assert {row["year_shift"] for row in found} == {None}
    assert found[0]["born_at"] == datetime(2080, 1, 1)


def test_a_patient_without_an_anchor_has_no_birth(tmp_path: Path) -> None:
    changed = TABLES["patients"].replace("10,F,70,2150", "10,F,,2150", 1)
    assert rows(tmp_path, "patients", patients=changed)[0]["born_at"] is None


def test_admissions_have_nothing_where_nothing_is_said(tmp_path: Path) -> None:
    """v2.2 says `?` for a language that it does not name; `No charge` is an insurance of v3.1."""
    changed = TABLES["admissions"].replace("Medicare,ENGLISH,WIDOWED", "No charge,,", 1)
    found = {row["hadm_id"]: row for row in rows(tmp_path, "admissions", admissions=changed)}
    assert found[1000] == {
        "subject_id": 10,
        "hadm_id": 1000,
        "admitted_at": datetime(2151, 6, 1, 8),
        "discharged_at": datetime(2151, 6, 5, 12),
        "insurance": "No charge",
        "language": None,
        "marital_status": None,
        "race": "WHITE",
    }
    assert found[3001]["language"] is None


def test_codes_carry_their_system_so_equal_strings_stay_apart(tmp_path: Path) -> None:
    codes = [row["code"] for row in rows(tmp_path, "diagnoses") if row["hadm_id"] == 2000]
    assert codes == ["ICD9CM:E8889", "ICD10CM:E8889", "ICD10CM:I10"]


def test_diagnoses_and_procedures_of_the_same_string_are_two_codes(tmp_path: Path) -> None:
    """`4019` is hypertension as a diagnosis, and as a procedure a diagnostic one on lymphatic structures."""
    changed = TABLES["procedures_icd"].replace("3961,9", "4019,9")
    events, _ = read(tmp_path, procedures_icd=changed)
    assert "ICD9CM:4019" in events["diagnoses"]["code"].to_pylist()
    assert "ICD9PCS:4019" in events["procedures"]["code"].to_pylist()


def test_a_code_is_trimmed_and_loses_its_dot(tmp_path: Path) -> None:
    changed = TABLES["diagnoses_icd"].replace("10,1000,1,N179,10", "10,1000,1, n17.9,10")
    found = {
        (row["hadm_id"], row["position"]): row["code"] for row in rows(tmp_path, "diagnoses", diagnoses_icd=changed)
    }
    assert found[5001, 1] == "ICD10CM:I10"
    assert found[1000, 1] == "ICD10CM:N179"


def test_numbers_of_drugs_keep_their_leading_zeros(tmp_path: Path) -> None:
    changed = TABLES["prescriptions"].replace("Furosemide,008205,0", "Furosemide,008205,00054829725", 1)
    found = [row for row in rows(tmp_path, "medications", prescriptions=changed) if row["drug"] == "Furosemide"]
    assert (found[0]["gsn"], found[0]["ndc"]) == ("008205", "00054829725")


def test_a_row_without_a_drug_name_or_a_start_stays(tmp_path: Path) -> None:
    changed = TABLES["prescriptions"].replace("2160-01-03 00:00:00", "", 1)
    found = rows(tmp_path, "medications", prescriptions=changed)
    assert [row["hadm_id"] for row in found if row["drug"] is None] == [3003]
    assert [row["drug"] for row in found if row["started_at"] is None] == ["Insulin"]


@pytest.mark.parametrize(
    ("table", "right", "wrong", "reason"),
    [
        ("patients", "50,F", ",F", "patients: rows without a subject number"),
        ("admissions", "50,6001,", "50,,", "admissions: rows without a subject or an admission number"),
        ("admissions", "50,6001,", ",6001,", "admissions: rows without a subject or an admission number"),
        ("admissions", "2160-01-01 00:00:00", "", "admissions: rows without an admission time"),
        ("diagnoses_icd", "4019,9", "4019,8", "diagnoses_icd: rows of an unknown ICD version"),
        ("diagnoses_icd", "4019,9", "4019,", "diagnoses_icd: rows of an unknown ICD version"),
        ("diagnoses_icd", "4019,9", " . ,9", "diagnoses_icd: rows without a code"),
        ("procedures_icd", "5A1221Z,10", ",10", "procedures_icd: rows without a code"),
        ("prescriptions", "MAIN,Insulin", ",Insulin", "prescriptions: rows of an unknown drug type"),
        ("prescriptions", "MAIN,Insulin", "HOME,Insulin", "prescriptions: rows of an unknown drug type"),
        ("d_icd_diagnoses", "N179,10", "N179,11", "d_icd_diagnoses: rows of an unknown ICD version"),
        ("d_icd_diagnoses", "Unspecified fall", "", "d_icd_diagnoses: rows without a title"),
    ],
)
def test_a_fault_is_counted_under_its_reason(tmp_path: Path, table: str, right: str, wrong: str, reason: str) -> None:
    whole, _ = read(tmp_path / "whole")
    events, tally = read(tmp_path / "faulty", **{table: TABLES[table].replace(right, wrong, 1)})
    assert tally == {("left out", FLUIDS): 1, ("fault", NO_STAY): 1, ("fault", reason): 1}
    assert sum(map(len, whole.values())) - sum(map(len, events.values())) == 1


def test_a_row_of_two_faults_is_counted_once(tmp_path: Path) -> None:
    _, tally = read(tmp_path, diagnoses_icd=TABLES["diagnoses_icd"].replace("20,3001,1,4019,9", ",3001,1,,8"))
    assert [count for (kind, reason), count in tally.items() if reason.startswith("diagnoses_icd")] == [1]


def test_a_missing_position_is_no_fault(tmp_path: Path) -> None:
    found = rows(tmp_path, "diagnoses", diagnoses_icd=TABLES["diagnoses_icd"].replace("20,3001,1,", "20,3001,,"))
    assert [(row["code"], row["position"]) for row in found if row["hadm_id"] == 3001] == [("ICD9CM:4019", None)]


@pytest.mark.parametrize("absent", ["d_icd_diagnoses", "d_icd_procedures"])
def test_tables_of_titles_may_be_absent(tmp_path: Path, absent: str) -> None:
    opened = SOURCES["mimic4"].open_tables(str(write_hosp(tmp_path, **{absent: None})))
    kind = {"d_icd_diagnoses": "diagnosis_titles", "d_icd_procedures": "procedure_titles"}[absent]
    assert set(EVENT_SCHEMAS) - set(opened) == {kind}

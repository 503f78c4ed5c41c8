"""Raw tables: what is read, and the sentence for each way in which a table can be wrong."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from support.patients import TABLES, read_events, write_hosp

from leader_platform.data import mimic4
from leader_platform.data.raw import sha256
from leader_platform.errors import UserError


def failure(directory: Path) -> str:
    """The sentence of reading all tables under `directory`."""
    with pytest.raises(UserError) as caught:
        read_events(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_tables_are_found_with_or_without_hosp_and_gzip(tmp_path: Path, nested: bool, compressed: bool) -> None:
    events = read_events(write_hosp(tmp_path, nested=nested, compressed=compressed))
    assert {kind: len(table) for kind, table in events.items()} == {
        "patients": 5,
        "admissions": 8,
        "diagnoses": 11,
        "procedures": 4,
        "medications": 20,
        "diagnosis_titles": 5,
        "procedure_titles": 2,
    }


@pytest.mark.parametrize("name", list(TABLES))
def test_a_missing_table_is_named_with_its_folder(tmp_path: Path, name: str) -> None:
    message = failure(write_hosp(tmp_path, **{name: None}))
    assert f"{name}.csv.gz" in message
    assert f"{tmp_path}/hosp" in message


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in failure(tmp_path)


def test_a_missing_column_is_named_with_the_table(tmp_path: Path) -> None:
    changed = TABLES["patients"].replace("anchor_year,", "year,", 1)
    message = failure(write_hosp(tmp_path, patients=changed))
    assert "patients.csv.gz has no column anchor_year" in message


@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("compressed", [True, False])
def test_an_empty_file_is_named(tmp_path: Path, name: str, compressed: bool) -> None:
    message = failure(write_hosp(tmp_path, compressed=compressed, **{name: ""}))
    assert f"{name}.csv" in message
    assert "is empty" in message


@pytest.mark.parametrize("name", list(TABLES))
def test_a_header_without_rows_is_named(tmp_path: Path, name: str) -> None:
    message = failure(write_hosp(tmp_path, **{name: TABLES[name].splitlines()[0] + "\n"}))
    assert f"{name}.csv.gz" in message
    assert "no rows" in message


def test_a_file_of_no_bytes_under_the_name_of_gzip_is_named(tmp_path: Path) -> None:
    write_hosp(tmp_path)
    (tmp_path / "hosp" / "patients.csv.gz").write_bytes(b"")
    assert "patients.csv.gz" in failure(tmp_path)


def test_a_plain_table_under_the_name_of_gzip_is_named(tmp_path: Path) -> None:
    write_hosp(tmp_path)
    (tmp_path / "hosp" / "patients.csv.gz").write_text(TABLES["patients"])
    assert "patients.csv.gz" in failure(tmp_path)


@pytest.mark.parametrize("repeats", [1, 4000])
def test_a_download_cut_short_is_named(tmp_path: Path, repeats: int) -> None:
    """Once within the bytes that the header is read from, once far behind them."""
    header, _, body = TABLES["diagnoses_icd"].partition("\n")
    packed = gzip.compress(f"{header}\n{body * repeats}".encode(), compresslevel=1 if repeats == 1 else 0)
    write_hosp(tmp_path)
    path = tmp_path / "hosp" / "diagnoses_icd.csv.gz"
    path.write_bytes(packed[: int(len(packed) * 0.9)])
    message = failure(tmp_path)
    assert str(path) in message
    assert "SHA-256" in message


@pytest.mark.parametrize(
    ("table", "right", "wrong"),
    [("patients", ",70,", ",seventy,"), ("admissions", "2151-06-01 08:00:00", "first of June")],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, table: str, right: str, wrong: str) -> None:
    message = failure(write_hosp(tmp_path, **{table: TABLES[table].replace(right, wrong, 1)}))
    assert f"{table}.csv.gz" in message
    assert wrong.strip(",") in message


def test_a_row_with_too_few_values_is_named(tmp_path: Path) -> None:
    assert "patients.csv.gz" in failure(write_hosp(tmp_path, patients=TABLES["patients"] + "60,F\n"))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    changed = "\ufeff" + TABLES["patients"].replace("\n", "\r\n")
    events = read_events(write_hosp(tmp_path, patients=changed))
    assert events["patients"]["subject_id"].to_pylist() == [10, 20, 30, 40, 50]
    assert events["patients"]["gender"].to_pylist() == ["F", "M", "F", "M", "F"]


def test_the_checksum_is_that_of_the_file_as_published(tmp_path: Path) -> None:
    tables = mimic4.open_tables(str(write_hosp(tmp_path)))
    data = (tmp_path / "hosp" / "patients.csv.gz").read_bytes()
    assert sha256(tables["patients"].uri) == hashlib.sha256(data).hexdigest()


def test_codes_carry_their_system_so_equal_strings_stay_apart(tmp_path: Path) -> None:
    diagnoses = read_events(write_hosp(tmp_path))["diagnoses"].to_pylist()
    codes = {row["code"] for row in diagnoses if row["hadm_id"] == 2000}
    assert codes == {"ICD9CM:E8889", "ICD10CM:E8889", "ICD10CM:I10"}


def test_a_padded_code_is_trimmed(tmp_path: Path) -> None:
    diagnoses = read_events(write_hosp(tmp_path))["diagnoses"].to_pylist()
    assert [row["code"] for row in diagnoses if row["hadm_id"] == 5001] == ["ICD10CM:I10"]


def test_fluids_that_a_drug_is_dissolved_in_are_left_out(tmp_path: Path) -> None:
    medications = read_events(write_hosp(tmp_path))["medications"]
    assert "0.9% Sodium Chloride" not in medications["drug"].to_pylist()
    assert "Aspirin EC" in medications["drug"].to_pylist()


def test_unmapped_drugs_stay_as_rows_without_a_code(tmp_path: Path) -> None:
    medications = read_events(write_hosp(tmp_path))["medications"].to_pylist()
    assert {row["drug"] for row in medications if row["atc"] is None} == {"Zzyzx, Study Drug", None}


def test_what_says_nothing_is_null(tmp_path: Path) -> None:
    admissions = {row["hadm_id"]: row for row in read_events(write_hosp(tmp_path))["admissions"].to_pylist()}
    assert admissions[3001]["language"] is None
    assert admissions[5001]["insurance"] is None
    assert admissions[4001]["marital_status"] is None


@pytest.mark.parametrize("kind", list(mimic4.SPECS))
def test_no_events_has_the_columns_of_some_events(tmp_path: Path, kind: str) -> None:
    assert mimic4.no_events(kind).schema == read_events(write_hosp(tmp_path))[kind].schema

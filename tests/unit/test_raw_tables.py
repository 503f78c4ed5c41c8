"""Raw tables: how they are found and read, and the sentence for each way in which one can be wrong."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from support.patients import TABLES, write_hosp
from support.patients_mimic3 import read_source

from leader_platform import storage
from leader_platform.data.sources import SOURCES, raw
from leader_platform.errors import UserError

PATIENTS = [10, 20, 30, 40, 50]


def read(directory: Path) -> dict[str, pa.Table]:
    return read_source("mimic4", directory)[0]


def failure(directory: Path) -> str:
    """The sentence of reading all tables under `directory`."""
    with pytest.raises(UserError) as caught:
        read(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def patients_failure(directory: Path, right: str, wrong: str) -> str:
    """The sentence of reading the patients with `wrong` in the place of the first `right`."""
    assert right in TABLES["patients"]
    return failure(write_hosp(directory, patients=TABLES["patients"].replace(right, wrong, 1)))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_tables_are_found_with_or_without_hosp_and_gzip(tmp_path: Path, nested: bool, compressed: bool) -> None:
    events = read(write_hosp(tmp_path, nested=nested, compressed=compressed))
    assert {kind: len(table) for kind, table in events.items()} == {
        "patients": 5,
        "admissions": 8,
        "diagnoses": 11,
        "procedures": 4,
        "medications": 19,
        "diagnosis_titles": 5,
        "procedure_titles": 2,
    }


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith("d_")])
def test_a_missing_table_is_named_with_its_folder(tmp_path: Path, name: str) -> None:
    message = failure(write_hosp(tmp_path, **{name: None}))
    assert f"{name}.csv.gz" in message
    assert f"{tmp_path}/hosp" in message


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in failure(tmp_path)


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text(TABLES["patients"])
    assert f"{tmp_path}/patients.csv cannot be listed" in failure(tmp_path / "patients.csv")


def test_a_table_that_is_there_packed_and_plain_is_refused(tmp_path: Path) -> None:
    write_hosp(tmp_path)
    (tmp_path / "hosp" / "patients.csv").write_text(TABLES["patients"])
    message = failure(tmp_path)
    assert "patients is there twice" in message
    assert f"{tmp_path}/hosp/patients.csv and as {tmp_path}/hosp/patients.csv.gz" in message


def test_the_case_of_file_and_column_names_does_not_matter(tmp_path: Path) -> None:
    write_hosp(tmp_path, nested=False, compressed=False, patients=None)
    header, _, body = TABLES["patients"].partition("\n")
    quoted = ",".join(f'"{name.upper()}"' for name in header.split(","))
    (tmp_path / "PATIENTS.CSV.GZ").write_bytes(gzip.compress(f"{quoted}\n{body}".encode()))
    opened = SOURCES["mimic4"].open_tables(str(tmp_path))
    batch = next(opened["patients"].batches())
    assert batch.column_names == list(opened["patients"].spec.columns)
    assert batch["subject_id"].to_pylist() == PATIENTS


def test_missing_columns_are_named_with_the_table(tmp_path: Path) -> None:
    message = patients_failure(tmp_path, "gender,anchor_age", "sex,age")
    assert "patients.csv.gz has no column gender, anchor_age;" in message


def test_columns_given_twice_are_named_with_the_table(tmp_path: Path) -> None:
    assert "patients.csv.gz has more than one column gender;" in patients_failure(tmp_path, ",dod", ",GENDER")


def test_a_table_without_a_header_is_refused_without_showing_a_patient(tmp_path: Path) -> None:
    message = failure(write_hosp(tmp_path, patients=TABLES["patients"].partition("\n")[2]))
    assert "patients.csv.gz has no column subject_id" in message
    assert "2150" not in message


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


def test_a_download_with_a_wrong_byte_is_named(tmp_path: Path) -> None:
    """The last bytes of the archive are its checksum."""
    write_hosp(tmp_path)
    path = tmp_path / "hosp" / "admissions.csv.gz"
    packed = bytearray(path.read_bytes())
    packed[-6] ^= 1
    path.write_bytes(packed)
    message = failure(tmp_path)
    assert "admissions.csv.gz" in message
    assert "SHA-256" in message


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("33,2130", "thirty,2130", "line 4, column anchor_age: 'thirty' is not a whole number"),
        ("33,2130", "33.5,2130", "line 4, column anchor_age: '33.5' is not a whole number"),
        ("33,2130", "33,99999999999", "line 4, column anchor_year: '99999999999' is not a whole number"),
        ("30,F", "'30',F", "line 4, column subject_id: \"'30'\" is not a whole number"),
    ],
)
def test_a_number_of_the_wrong_type_is_named_with_its_line(
    tmp_path: Path, right: str, wrong: str, sentence: str
) -> None:
    message = patients_failure(tmp_path, right, wrong)
    assert f"patients.csv.gz, {sentence};" in message
    assert "2011 - 2013" not in message


@pytest.mark.parametrize(
    "wrong", ["first of June", "06/01/2151", "2151-06-31 08:00:00", "51-06-01", "2151-06-01 25:00:00"]
)
def test_a_time_that_is_none_is_named_with_its_line(tmp_path: Path, wrong: str) -> None:
    changed = TABLES["admissions"].replace("2151-06-01 08:00:00", wrong, 1)
    message = failure(write_hosp(tmp_path, admissions=changed))
    assert f"admissions.csv.gz, line 2, column admittime: '{wrong}' is not a date or time" in message


def test_the_line_is_right_far_behind_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "BLOCK_BYTES", 1 << 12)
    many = "".join(f"{subject},F,70,2150,2014 - 2016,\n" for subject in range(2000))
    message = failure(write_hosp(tmp_path, patients=TABLES["patients"] + many + "x,F,70,2150,2014 - 2016,\n"))
    assert "patients.csv.gz, line 2007, column subject_id: 'x'" in message


def test_a_long_wrong_value_is_shown_in_part(tmp_path: Path) -> None:
    assert len(patients_failure(tmp_path, "33,2130", f"{'thirty ' * 1000},2130")) < 400


@pytest.mark.parametrize(("right", "column"), [(",F,33", "gender"), ("2011 - 2013", "anchor_year_group")])
def test_a_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path, right: str, column: str) -> None:
    write_hosp(tmp_path)
    data = (
        TABLES["patients"]
        .encode()
        .replace(right.encode(), right.encode().replace(b"F", b"\xc4").replace(b"-", b"\xff"))
    )
    (tmp_path / "hosp" / "patients.csv.gz").write_bytes(gzip.compress(data))
    assert f"patients.csv.gz, line 4, column {column}: the text is not UTF-8" in failure(tmp_path)


def test_a_drug_name_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    write_hosp(tmp_path)
    data = TABLES["prescriptions"].encode().replace(b"Aspirin EC", b"Aspirin \xe9C")
    (tmp_path / "hosp" / "prescriptions.csv.gz").write_bytes(gzip.compress(data))
    assert "prescriptions.csv.gz, line 5, column drug: the text is not UTF-8" in failure(tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "num_values"), [("30,F,33,2130,2011 - 2013,", "30,F", 2), ("2130,", "2130,,,", 8)]
)
def test_a_row_with_too_few_or_too_many_values_is_named_by_its_line(
    tmp_path: Path, right: str, wrong: str, num_values: int
) -> None:
    message = patients_failure(tmp_path, right, wrong)
    assert f"patients.csv.gz, line 4: {num_values} values, but 6 columns;" in message
    assert "30" not in message.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("30,F", '30,"F'),  # to the end of the file, in a column in the middle
        ("2011 - 2013,\n", '2011 - 2013,"\n'),  # in the last column, which is not read
        ("2014 - 2016,2141-01-01", '2014 - 2016,"2141-01-01'),  # and with one row behind it
    ],
)
def test_a_quotation_mark_that_is_never_closed_loses_no_rows_silently(tmp_path: Path, right: str, wrong: str) -> None:
    message = patients_failure(tmp_path, right, wrong)
    assert "patients.csv.gz" in message
    assert "never closed" in message or "values, but 6 columns" in message


def test_an_open_quotation_in_a_title_is_no_long_title(tmp_path: Path) -> None:
    changed = TABLES["d_icd_diagnoses"].replace("Unspecified fall", '"Unspecified fall')
    changed = changed.replace('"Acute kidney failure, unspecified"', "Acute kidney failure")
    message = "d_icd_diagnoses.csv.gz, line 3: a row of more than 8 MB, or a quotation mark"
    assert message in failure(write_hosp(tmp_path, d_icd_diagnoses=changed))


def test_an_open_quotation_in_a_column_of_numbers_shows_no_other_rows(tmp_path: Path) -> None:
    changed = TABLES["diagnoses_icd"].replace("4019,9", '4019,"9')
    message = failure(write_hosp(tmp_path, diagnoses_icd=changed))
    assert "diagnoses_icd.csv.gz, line 7: a row of more than 8 MB, or a quotation mark" in message
    assert "3003" not in message


@pytest.mark.parametrize("closed", ['"', ""])
def test_a_huge_value_is_refused_with_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setattr(raw, "BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr(raw, "MAX_ROW_BYTES", 1 << 20)
    message = patients_failure(tmp_path, "30,F", f'30,"{"F" * (5 << 20)}{closed}')
    assert "patients.csv.gz, line 4: a row of more than 1 MB" in message


def test_a_table_of_many_blocks_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "BLOCK_BYTES", 1 << 12)
    many = "".join(f'{subject},F,70,2150,"2014 - 2016",\n' for subject in range(3000))
    table = SOURCES["mimic4"].open_tables(str(write_hosp(tmp_path, patients=TABLES["patients"] + many)))["patients"]
    batches = list(table.batches())
    assert len(batches) > 10
    assert pa.concat_tables(batches)["subject_id"].to_pylist() == [*PATIENTS, *range(3000)]


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    changed = "\ufeff" + TABLES["patients"].replace("\n", "\r\n")
    events = read(write_hosp(tmp_path, patients=changed))
    assert events["patients"]["subject_id"].to_pylist() == PATIENTS
    assert events["patients"]["gender"].to_pylist() == ["F", "M", "F", "M", "F"]


def test_the_checksum_is_that_of_the_file_as_published(tmp_path: Path) -> None:
    tables = SOURCES["mimic4"].open_tables(str(write_hosp(tmp_path)))
    data = (tmp_path / "hosp" / "patients.csv.gz").read_bytes()
    assert storage.sha256(tables["patients"].uri) == hashlib.sha256(data).hexdigest()


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    events = read(write_hosp(tmp_path, patients=TABLES["patients"].replace("\n", "\n\n")))
    assert events["patients"]["subject_id"].to_pylist() == PATIENTS


def test_a_file_without_a_last_line_end_is_read_whole(tmp_path: Path) -> None:
    assert read(write_hosp(tmp_path, patients=TABLES["patients"].rstrip()))["patients"]["subject_id"][-1].as_py() == 50


def test_commas_and_quotation_marks_within_quotation_are_text(tmp_path: Path) -> None:
    changed = TABLES["prescriptions"].replace("Aspirin EC", '"Aspirin, ""EC"""')
    drugs = read(write_hosp(tmp_path, prescriptions=changed))["medications"]["drug"].to_pylist()
    assert 'Aspirin, "EC"' in drugs

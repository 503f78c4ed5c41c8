"""Every table of MIMIC-IV with every fault: a sentence that names the table, or a count; never a traceback."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.patients import TABLES, write_hosp

from leader_platform.data.sources import SOURCES
from leader_platform.data.tallies import Tally
from leader_platform.errors import UserError

_KINDS = {spec.name: kind for kind, spec in SOURCES["mimic4"].tables.items()}
_KEYS = {name: "icd_code" if name.startswith("d_icd") else "subject_id" for name in TABLES}
# A column of numbers or times of each table, and where the value stands in the first row.
_NUMBERS = {
    "patients": "anchor_age",
    "admissions": "admittime",
    "diagnoses_icd": "icd_version",
    "procedures_icd": "seq_num",
    "prescriptions": "starttime",
    "d_icd_diagnoses": "icd_version",
    "d_icd_procedures": "icd_version",
}
tables = pytest.mark.parametrize("name", list(TABLES))


def read(folder: Path, name: str) -> Tally:
    """Read one table to its end; the tally of its events."""
    source, tally = SOURCES["mimic4"], Counter()
    for _, counted in source.open_tables(str(folder))[_KINDS[name]].map(lambda rows: source.read(_KINDS[name], rows)):
        tally.update(counted)
    return tally


def failure(folder: Path, name: str) -> str:
    with pytest.raises(UserError) as raised:
        read(folder, name)
    message = str(raised.value)
    assert f"{name}.csv.gz" in message
    assert "\n" not in message
    return message


def with_first_value(name: str, column: str, value: str) -> str:
    """The table with another value in that column of its first row."""
    header, first, *rest = TABLES[name].splitlines()
    values = first.split(",")
    values[header.split(",").index(column)] = value
    return "\n".join([header, ",".join(values), *rest]) + "\n"


@tables
def test_a_missing_column_is_named(tmp_path: Path, name: str) -> None:
    changed = TABLES[name].replace(_KEYS[name], "something_else", 1)
    assert f"has no column {_KEYS[name]}" in failure(write_hosp(tmp_path, **{name: changed}), name)


@tables
def test_a_value_of_another_type_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    column = _NUMBERS[name]
    message = failure(write_hosp(tmp_path, **{name: with_first_value(name, column, "zzyzx")}), name)
    assert f"line 2, column {column}: 'zzyzx' is not" in message


@tables
def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    text = {"patients": "gender", "admissions": "race", "prescriptions": "drug"}.get(name, "icd_code")
    data = with_first_value(name, text, "SMO").encode().replace(b"SMO", b"sm\xf8rrebr\xf8d", 1)
    folder = write_hosp(tmp_path)
    (folder / "hosp" / f"{name}.csv.gz").write_bytes(gzip.compress(data))
    assert f"line 2, column {text}: the text is not UTF-8" in failure(folder, name)


@tables
def test_a_row_with_a_value_too_many_is_named(tmp_path: Path, name: str) -> None:
    num_columns = TABLES[name].partition("\n")[0].count(",") + 1
    changed = TABLES[name] + "," * num_columns + "\n"
    assert f"{num_columns + 1} values, but {num_columns} columns" in failure(
        write_hosp(tmp_path, **{name: changed}), name
    )


@tables
def test_a_huge_value_and_an_open_quotation_are_refused(tmp_path: Path, name: str) -> None:
    for value in ('"' + "x" * (13 << 20) + '"', '"open'):
        changed = with_first_value(name, _KEYS[name], value)
        assert "line 2" in failure(write_hosp(tmp_path, **{name: changed}), name)


@tables
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"not gzip at all"])
def test_a_damaged_archive_is_told(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    folder = write_hosp(tmp_path)
    path = folder / "hosp" / f"{name}.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert "fetch it again and check its SHA-256" in failure(folder, name)


@tables
@pytest.mark.parametrize("text", ["", "HEADER"])
def test_an_empty_table_is_told(tmp_path: Path, name: str, text: str) -> None:
    changed = text and TABLES[name].partition("\n")[0] + "\n"
    assert "fetch it again" in failure(write_hosp(tmp_path, **{name: changed}), name)


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith("d_icd")])
def test_rows_without_a_number_are_counted(tmp_path: Path, name: str) -> None:
    clean = read(write_hosp(tmp_path / "clean"), name)
    tally = read(write_hosp(tmp_path / "faulty", **{name: with_first_value(name, "subject_id", "")}), name)
    assert {key: count for key, count in (tally - clean).items() if key[0] == "fault"}.popitem()[1] == 1


@pytest.mark.parametrize("name", [name for name in TABLES if "icd" in name])
@pytest.mark.parametrize("version", ["8", "11", ""])
def test_rows_of_an_unknown_icd_version_are_counted(tmp_path: Path, name: str, version: str) -> None:
    tally = read(write_hosp(tmp_path, **{name: with_first_value(name, "icd_version", version)}), name)
    assert tally[("fault", f"{name}: rows of an unknown ICD version")] == 1

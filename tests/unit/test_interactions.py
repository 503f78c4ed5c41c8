"""Interaction tables: the package's own, a terminology directory's, and the matrix that both become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leader_platform.data.dataset import INTERACTION_SCHEMA
from leader_platform.data.drugs import atc_class_names
from leader_platform.data.interactions import (
    GAMENET_FILE,
    interaction_matrix,
    package_interactions,
    terminology_interactions,
)
from leader_platform.errors import UserError


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["code_a"].to_pylist(), table["code_b"].to_pylist(), strict=True))


def test_the_packages_pairs_are_of_known_classes() -> None:
    known = {f"ATC:{code}" for code in atc_class_names()}
    assert {code for pair in pairs(package_interactions()) for code in pair} <= known


def test_the_package_names_no_pair_twice_and_no_class_with_itself() -> None:
    unordered = [frozenset(pair) for pair in pairs(package_interactions())]
    assert len(unordered) == len(set(unordered)) > 20
    assert all(len(pair) == 2 for pair in unordered)


def test_each_of_the_packages_pairs_has_severity_reason_and_source() -> None:
    table = package_interactions()
    assert table.schema == INTERACTION_SCHEMA
    assert set(table["severity"].to_pylist()) <= {"moderate", "major", "contraindicated"}
    assert all(text for name in ("reason", "source") for text in table[name].to_pylist())


def test_the_matrix_is_symmetric_and_holds_the_known_pairs_alone() -> None:
    table = pa.Table.from_pylist(
        [{"code_a": "ATC:B01A", "code_b": "ATC:M01A"}, {"code_a": "ATC:B01A", "code_b": "ATC:Z99Z"}],
        schema=INTERACTION_SCHEMA,
    )
    matrix = interaction_matrix(table, ("ATC:A01A", "ATC:B01A", "ATC:M01A"))
    assert np.argwhere(matrix).tolist() == [[1, 2], [2, 1]]
    assert matrix.dtype == bool


def test_the_packages_matrix_has_two_entries_a_pair() -> None:
    table = package_interactions()
    matrix = interaction_matrix(table, tuple(f"ATC:{code}" for code in atc_class_names()))
    assert (matrix == matrix.T).all()
    assert not matrix.diagonal().any()
    assert matrix.sum() == 2 * len(table)


def test_a_terminologys_pairs_claim_no_severity(tmp_path: Path) -> None:
    (tmp_path / GAMENET_FILE).write_text("atc3_a,atc3_b\nB01A,M01A\n")
    table = terminology_interactions(str(tmp_path))
    assert table is not None
    assert pairs(table) == [("ATC:B01A", "ATC:M01A")]
    assert table["severity"].to_pylist() == [None]
    assert table["source"].to_pylist() == ["GAMENet matrix"]


def test_a_terminology_without_pairs_gives_none(tmp_path: Path) -> None:
    assert terminology_interactions(str(tmp_path)) is None


@pytest.mark.parametrize("text", ["first,second\nB01A,M01A\n", "", 'atc3_a,atc3_b\nB01A,"M01A'])
def test_an_unusable_table_of_pairs_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / GAMENET_FILE).write_text(text)
    with pytest.raises(UserError, match=GAMENET_FILE):
        terminology_interactions(str(tmp_path))

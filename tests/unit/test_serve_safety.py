"""Interaction alerts: pairs either way round, classes of substances, nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from leader_platform import storage
from leader_platform.errors import UserError
from leader_serve.safety import Interaction, InteractionFact, InteractionTable, interactions_within

BLEEDING = InteractionFact("major", "bleeding", "example")
POTASSIUM = InteractionFact(None, "potassium", "example")
ROWS: list[dict[str, Any]] = [
    {"code_a": "ATC:B01A", "code_b": "ATC:N02B", "severity": "major", "reason": "bleeding", "source": "example"},
    {"code_a": "ATC:N02B", "code_b": "ATC:B01A", "severity": "major", "reason": "bleeding", "source": "example"},
    {"code_a": "ATC:C09A", "code_b": "ATC:C03D", "severity": None, "reason": "potassium", "source": "example"},
]
TABLE = InteractionTable(ROWS)


def test_pairs_within_the_recommendation_in_its_order() -> None:
    found = interactions_within(["ATC:N02B", "ATC:A02B", "ATC:B01A"], [], TABLE)
    assert found == [Interaction(("ATC:N02B", "ATC:B01A"), "recommended", BLEEDING)]


def test_pairs_with_current_medications_also_given_as_substances() -> None:
    found = interactions_within(["ATC:B01A", "ATC:C03D"], ["ATC:N02BE01", "ATC:C09A"], TABLE)
    assert found == [
        Interaction(("ATC:B01A", "ATC:N02BE01"), "recommended-current", BLEEDING),
        Interaction(("ATC:C03D", "ATC:C09A"), "recommended-current", POTASSIUM),
    ]


@pytest.mark.parametrize("current", ["ATC:N02B", "ATC:N02BE01"])
def test_a_current_medication_that_is_recommended_anyway_is_reported_once(current: str) -> None:
    found = interactions_within(["ATC:B01A", "ATC:N02B"], [current], TABLE)
    assert [interaction.between for interaction in found] == ["recommended"]


def test_without_pairs_there_is_no_alert() -> None:
    assert interactions_within([], ["ATC:N02B"], TABLE) == []
    assert interactions_within(["ATC:B01A", "ATC:N02B"], [], InteractionTable()) == []


def test_the_table_is_read_from_the_run(tmp_path: Path) -> None:
    storage.write_parquet(str(tmp_path / "student" / "interactions.parquet"), pa.Table.from_pylist(ROWS))
    table = InteractionTable.load(str(tmp_path))
    assert len(table) == 2
    assert table.facts("ATC:C03D", "ATC:C09A") == [POTASSIUM]


def test_a_run_without_a_table_is_refused_rather_than_called_safe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"interactions\.parquet is missing"):
        InteractionTable.load(str(tmp_path))

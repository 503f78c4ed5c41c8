"""Interaction alerts: pairs either way round, substances before classes, nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leader_platform import storage
from leader_platform.data.interactions import interactions, seldom_meant, substance_names
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

AMIODARONE, AZITHROMYCIN, CLARITHROMYCIN = "ATC:C01BD01", "ATC:J01FA10", "ATC:J01FA09"
MUSCLE = InteractionFact("contraindicated", "muscle", "example")
CAPPED = InteractionFact("major", "capped", "example")
ANY_MACROLIDE = InteractionFact("moderate", "any macrolide", "example")
NAMES = {
    "ATC:C10AA01": "simvastatin",
    "ATC:C10AA02": "lovastatin",
    "ATC:C10BA02": "simvastatin",
    "ATC:J01FA09": "clarithromycin",
}
SUBSTANCE_ROWS: list[dict[str, Any]] = [
    {"code_a": code_a, "code_b": code_b, "severity": fact.severity, "reason": fact.reason, "source": fact.source}
    for code_a, code_b, fact in (
        ("ATC:C10A", "ATC:J01F", ANY_MACROLIDE),
        ("ATC:C10AA01", CLARITHROMYCIN, MUSCLE),
        ("ATC:C10AA02", CLARITHROMYCIN, MUSCLE),
        ("ATC:C10BA02", CLARITHROMYCIN, MUSCLE),
        (AMIODARONE, "ATC:C10AA01", CAPPED),
        ("ATC:C10AA99", AMIODARONE, MUSCLE),
    )
]
SUBSTANCE_TABLE = InteractionTable(SUBSTANCE_ROWS, NAMES, {"ATC:C10AA99"})


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


def test_a_current_substance_brings_one_alert_that_names_the_substances_of_the_recommended_class() -> None:
    found = interactions_within(["ATC:C10A"], [CLARITHROMYCIN], SUBSTANCE_TABLE)
    assert found == [
        Interaction(("ATC:C10A", CLARITHROMYCIN), "recommended-current", MUSCLE, ("simvastatin", "lovastatin"))
    ]


def test_a_current_substance_without_facts_of_its_own_is_looked_up_as_its_class() -> None:
    found = interactions_within(["ATC:C10A"], [AZITHROMYCIN], SUBSTANCE_TABLE)
    assert found == [Interaction(("ATC:C10A", AZITHROMYCIN), "recommended-current", ANY_MACROLIDE)]


def test_a_current_class_says_nothing_of_substances() -> None:
    found = interactions_within(["ATC:C10A"], ["ATC:J01F"], SUBSTANCE_TABLE)
    assert found == [Interaction(("ATC:C10A", "ATC:J01F"), "recommended-current", ANY_MACROLIDE)]
    assert interactions_within(["ATC:C10B"], ["ATC:J01F"], SUBSTANCE_TABLE) == []


def test_a_current_substance_whose_class_is_recommended_is_checked_against_the_other_classes() -> None:
    found = interactions_within(["ATC:C10A", "ATC:J01F"], [CLARITHROMYCIN, AZITHROMYCIN], SUBSTANCE_TABLE)
    assert found == [
        Interaction(("ATC:C10A", "ATC:J01F"), "recommended", ANY_MACROLIDE),
        Interaction(("ATC:C10A", CLARITHROMYCIN), "recommended-current", MUSCLE, ("simvastatin", "lovastatin")),
    ]


def test_a_substance_that_a_recommended_class_is_not_taken_to_mean_brings_no_alert_of_its_own() -> None:
    found = interactions_within(["ATC:C10A"], [AMIODARONE], SUBSTANCE_TABLE)
    assert found == [Interaction(("ATC:C10A", AMIODARONE), "recommended-current", CAPPED, ("simvastatin",))]


PACKAGE_TABLE = InteractionTable(interactions(None).to_pylist(), substance_names(), seldom_meant())


def package_alerts(recommended: str, current: str) -> list[tuple[str | None, tuple[str, ...]]]:
    alerts = interactions_within([recommended], [current], PACKAGE_TABLE)
    return [(alert.fact.severity, alert.substances) for alert in alerts]


@pytest.mark.parametrize(
    ("recommended", "current", "severity", "substance"),
    [
        ("ATC:C10A", CLARITHROMYCIN, "contraindicated", "simvastatin"),
        ("ATC:J01F", "ATC:C10AA01", "contraindicated", "clarithromycin"),
        ("ATC:N06B", "ATC:N06AF04", "contraindicated", "methylphenidate"),
        ("ATC:C01D", "ATC:G04BE03", "contraindicated", "nitroglycerin"),
        ("ATC:J01X", "ATC:N06AB06", "major", "linezolid"),
        ("ATC:J01E", "ATC:L01BA01", "major", "sulfamethoxazole/trimethoprim"),
        ("ATC:B01A", "ATC:N02BA01", "major", "warfarin"),
        ("ATC:C09B", "ATC:N05AN01", "major", "hydrochlorothiazide/lisinopril"),
        ("ATC:B01A", "ATC:J02AC01", "major", "warfarin"),
        ("ATC:C01A", "ATC:C08DB01", "major", "digoxin"),
        ("ATC:C01B", "ATC:C07AB02", "major", "amiodarone"),
        ("ATC:C08D", "ATC:C07AB02", "major", "verapamil"),
        ("ATC:J01X", "ATC:J01GB03", "major", "vancomycin"),
        ("ATC:M01A", "ATC:L01BA01", "major", "ibuprofen"),
        ("ATC:L04A", "ATC:J01FA09", "major", "tacrolimus"),
        ("ATC:C02A", "ATC:C07AB02", "moderate", "clonidine"),
    ],
)
def test_the_packages_substances_interact(recommended: str, current: str, severity: str, substance: str) -> None:
    alerts = package_alerts(recommended, current)
    assert any(found == severity and substance in substances for found, substances in alerts)


@pytest.mark.parametrize(
    ("recommended", "current"),
    [
        ("ATC:N02B", "ATC:C09AA03"),  # acetaminophen and its like, lisinopril
        ("ATC:N02B", "ATC:B01AA03"),  # aspirin is seldom what is meant
        ("ATC:A02B", "ATC:C10AA01"),  # nor is a pack with clarithromycin
        ("ATC:J01F", "ATC:C10AA03"),  # pravastatin
        ("ATC:C01D", "ATC:G04BD04"),  # oxybutynin
        ("ATC:J02A", "ATC:B01AB01"),  # heparin
        ("ATC:B01A", "ATC:J02AX05"),  # micafungin
        ("ATC:B01A", "ATC:P01AX06"),  # atovaquone
        ("ATC:C08D", "ATC:C10AA07"),  # rosuvastatin
        ("ATC:C10A", "ATC:C01BC04"),  # flecainide
        ("ATC:N05A", "ATC:J01FF01"),  # clindamycin
        ("ATC:C01B", "ATC:J01FF01"),
        ("ATC:L04A", "ATC:J01FF01"),
        ("ATC:J01E", "ATC:L01BC01"),  # cytarabine
        ("ATC:J01G", "ATC:J01XE01"),  # nitrofurantoin
    ],
)
def test_the_package_raises_no_alert_where_none_is_due(recommended: str, current: str) -> None:
    assert package_alerts(recommended, current) == []


@pytest.mark.parametrize("code_a", [CLARITHROMYCIN, "ATC:J01FA98"], ids=["with a known substance", "both unknown"])
def test_a_substance_that_the_installed_package_does_not_know_brings_an_alert_all_the_same(code_a: str) -> None:
    row = {"code_a": code_a, "code_b": "ATC:N02BE99", "severity": "major", "reason": "bleeding", "source": "example"}
    table = InteractionTable([row], NAMES)
    (taken,) = interactions_within(["ATC:J01F"], ["ATC:N02BE99"], table)
    assert taken.substances == (NAMES.get(code_a, code_a),)
    (meant,) = interactions_within(["ATC:N02B"], [code_a], table)
    assert meant.substances == ("ATC:N02BE99",)


def test_what_concerns_substances_is_no_alert_between_two_recommended_classes() -> None:
    """Simvastatin with clarithromycin is forbidden, but neither is known to be the one meant."""
    assert interactions_within(["ATC:C10A", "ATC:J01F"], [], PACKAGE_TABLE) == []


def test_the_table_is_read_from_the_run(tmp_path: Path) -> None:
    storage.write_parquet(str(tmp_path / "student" / "interactions.parquet"), interactions(None))
    table = InteractionTable.load(str(tmp_path))
    (alert,) = interactions_within(["ATC:C10A"], [CLARITHROMYCIN], table)[:1]
    assert alert.substances == ("lovastatin", "simvastatin")


def test_a_run_without_a_table_is_refused_rather_than_called_safe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"interactions\.parquet is missing"):
        InteractionTable.load(str(tmp_path))

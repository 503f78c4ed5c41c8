"""Interaction tables: the package's own, a terminology directory's, and the matrix that both become."""

from __future__ import annotations

import csv
import re
from importlib import resources
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leader_platform.data.dataset import INTERACTION_SCHEMA
from leader_platform.data.drugs import DrugMap, atc_class_names
from leader_platform.data.interactions import (
    GAMENET_FILE,
    between_classes,
    interaction_matrix,
    interactions,
    package_interactions,
    seldom_meant,
    substance_interactions,
    substance_names,
    terminology_interactions,
)
from leader_platform.errors import UserError

SEVERITIES = ("contraindicated", "major", "moderate")


def read(file_name: str) -> list[dict[str, str]]:
    path = resources.files("leader_platform.data").joinpath("tables", file_name)
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def codes_of(substance: dict[str, str]) -> set[str]:
    return {f"ATC:{code}" for column in ("atc", "seldom_meant") for code in substance[column].split()}


CODES = {row["substance"]: codes_of(row) for row in read("interaction_substances.csv")}
GROUPS = {row["group"]: row["substances"].split("; ") for row in read("interaction_groups.csv")}
LINES = read("substance_interactions.csv")
SEVERITY = {frozenset((row["code_a"], row["code_b"])): row["severity"] for row in substance_interactions().to_pylist()}


def severities(first: str, second: str) -> set[str | None]:
    """Of all pairs of codes of two substances."""
    return {SEVERITY.get(frozenset(pair)) for pair in product(CODES[first], CODES[second])}


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["code_a"].to_pylist(), table["code_b"].to_pylist(), strict=True))


def test_the_packages_pairs_are_of_known_classes() -> None:
    known = {f"ATC:{code}" for code in atc_class_names()}
    assert {code for pair in pairs(package_interactions()) for code in pair} <= known


@pytest.mark.parametrize("table", [package_interactions(), substance_interactions()], ids=["classes", "substances"])
def test_the_package_names_no_pair_twice_and_nothing_with_itself(table: pa.Table) -> None:
    unordered = [frozenset(pair) for pair in pairs(table)]
    assert len(unordered) == len(set(unordered)) > 20
    assert all(len(pair) == 2 for pair in unordered)


@pytest.mark.parametrize("table", [package_interactions(), substance_interactions()], ids=["classes", "substances"])
def test_each_of_the_packages_pairs_has_severity_reason_and_source(table: pa.Table) -> None:
    assert table.schema == INTERACTION_SCHEMA
    assert set(table["severity"].to_pylist()) <= set(SEVERITIES)
    assert all(text for name in ("reason", "source") for text in table[name].to_pylist())


def test_each_substance_has_codes_of_the_fifth_level_in_a_known_class() -> None:
    classes = {f"ATC:{code}" for code in atc_class_names()}
    for substance, codes in CODES.items():
        assert codes, substance
        for code in codes:
            assert re.fullmatch(r"ATC:[A-Z]\d{2}[A-Z]{2}\d{2}", code), (substance, code)
            assert code[:8] in classes, (substance, code)


def test_each_substance_has_the_code_that_the_packages_drug_map_gives_its_name() -> None:
    drugs = DrugMap.from_package()
    mapped = {substance: drugs.atc(substance) for substance in CODES}
    assert len([code for code in mapped.values() if code]) > 0.9 * len(CODES)
    for substance, code in mapped.items():
        assert code is None or len(code) < 7 or f"ATC:{code}" in CODES[substance], (substance, code)


def test_a_code_is_either_meant_by_its_class_or_not() -> None:
    rows = read("interaction_substances.csv")
    meant, seldom = ({code for row in rows for code in row[column].split()} for column in ("atc", "seldom_meant"))
    assert not meant & seldom
    assert seldom_meant() == {f"ATC:{code}" for code in seldom}
    assert set(substance_names()) - seldom_meant() == {f"ATC:{code}" for code in meant}


def test_groups_and_lines_name_what_is_known_and_every_name_is_used() -> None:
    named = {name for line in LINES for side in "ab" for name in line[side].split("; ")}
    in_groups = {name for members in GROUPS.values() for name in members}
    assert named | in_groups == set(CODES) | set(GROUPS)
    assert not set(CODES) & set(GROUPS)


def test_the_most_severe_lines_stand_first() -> None:
    ranks = [SEVERITIES.index(line["severity"]) for line in LINES]
    assert ranks == sorted(ranks)


def test_a_combination_is_named_after_its_parts() -> None:
    names = substance_names()
    assert names["ATC:C10AA01"] == "simvastatin"
    assert names["ATC:J01EE01"] == "sulfamethoxazole/trimethoprim"
    assert names["ATC:G02BB01"] == "ethinyl estradiol/etonogestrel"


def test_the_package_knows_thousands_of_pairs_of_substances() -> None:
    assert len(SEVERITY) > 5000


@pytest.mark.parametrize(
    ("first", "second", "severity"),
    [
        ("simvastatin", "clarithromycin", "contraindicated"),
        ("tranylcypromine", "fluoxetine", "contraindicated"),
        ("tranylcypromine", "procarbazine", "contraindicated"),
        ("amphetamine", "phenelzine", "contraindicated"),
        ("irinotecan", "ketoconazole", "contraindicated"),
        ("atazanavir", "omeprazole", "contraindicated"),
        ("azathioprine", "febuxostat", "contraindicated"),
        ("ramelteon", "fluvoxamine", "contraindicated"),
        ("tizanidine", "ciprofloxacin", "contraindicated"),
        ("sildenafil", "nitroglycerin", "contraindicated"),
        ("warfarin", "fluconazole", "major"),
        ("warfarin", "metronidazole", "major"),
        ("warfarin", "ibuprofen", "major"),
        ("azathioprine", "allopurinol", "major"),
        ("linezolid", "sertraline", "major"),
        ("methotrexate", "trimethoprim", "major"),
        ("clopidogrel", "omeprazole", "major"),
        ("digoxin", "amiodarone", "major"),
        ("valproic acid", "meropenem", "major"),
        ("lithium", "lisinopril", "major"),
        ("colchicine", "clarithromycin", "major"),
        ("rivaroxaban", "rifampin", "major"),
        ("morphine", "lorazepam", "major"),
        ("tacrolimus", "voriconazole", "major"),
        ("sotalol", "haloperidol", "major"),
        ("ondansetron", "azithromycin", "moderate"),
        ("rasagiline", "selegiline", "contraindicated"),
        ("tranexamic acid", "ethinyl estradiol", "contraindicated"),
        ("digoxin", "diltiazem", "major"),
        ("metoprolol", "verapamil", "major"),
        ("sotalol", "diltiazem", "major"),
        ("amiodarone", "metoprolol", "major"),
        ("flecainide", "verapamil", "major"),
        ("propafenone", "metoprolol", "moderate"),
        ("clonidine", "metoprolol", "moderate"),
        ("ibuprofen", "lisinopril", "moderate"),
        ("naproxen", "valsartan", "moderate"),
    ],
)
def test_known_pairs_interact(first: str, second: str, severity: str) -> None:
    assert severities(first, second) == {severity}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("pravastatin", "clarithromycin"),
        ("rosuvastatin", "itraconazole"),
        ("azithromycin", "simvastatin"),
        ("clopidogrel", "pantoprazole"),
        ("lithium", "aspirin"),
        ("warfarin", "rabeprazole"),
        ("naratriptan", "phenelzine"),
        ("tizanidine", "levofloxacin"),
        ("dabigatran", "clarithromycin"),
        ("ramelteon", "ciprofloxacin"),
    ],
)
def test_pairs_that_look_like_known_ones_do_not(first: str, second: str) -> None:
    assert severities(first, second) == {None}


@pytest.mark.parametrize(
    ("acetaminophen_or_calcium", "other"), [("ATC:N02BE01", "ATC:C09AA03"), ("ATC:A02AC01", "ATC:J01MA14")]
)
def test_codes_that_look_like_known_ones_do_not(acetaminophen_or_calcium: str, other: str) -> None:
    """Acetaminophen with lisinopril; calcium carbonate with moxifloxacin, which it does not bind as ciprofloxacin."""
    assert frozenset((acetaminophen_or_calcium, other)) not in SEVERITY


def test_no_fact_about_substances_is_milder_than_that_about_their_classes() -> None:
    """A substance's own fact is told in place of its class's, so it must not hide a graver one."""
    of_classes = {
        frozenset((row["code_a"], row["code_b"])): row["severity"] for row in package_interactions().to_pylist()
    }
    milder = []
    for row in substance_interactions().to_pylist():
        of_class = of_classes.get(frozenset((row["code_a"][:8], row["code_b"][:8])), row["severity"])
        if SEVERITIES.index(row["severity"]) > SEVERITIES.index(of_class):
            milder.append((row["code_a"], row["code_b"]))
    assert milder == []


def test_of_several_lines_about_a_pair_the_most_severe_holds() -> None:
    """Both prolong the QT interval (major), and dronedarone's label forbids it."""
    assert severities("dronedarone", "amiodarone") == {"contraindicated"}
    assert severities("sotalol", "amiodarone") == {"major"}


def test_the_matrix_is_symmetric_and_holds_the_known_pairs_alone() -> None:
    table = pa.Table.from_pylist(
        [{"code_a": "ATC:B01A", "code_b": "ATC:M01A"}, {"code_a": "ATC:B01A", "code_b": "ATC:Z99Z"}],
        schema=INTERACTION_SCHEMA,
    )
    matrix = interaction_matrix(table, ("ATC:A01A", "ATC:B01A", "ATC:M01A"))
    assert np.argwhere(matrix).tolist() == [[1, 2], [2, 1]]
    assert matrix.dtype == bool


def test_the_packages_matrix_has_two_entries_a_pair_of_classes_and_none_of_substances() -> None:
    matrix = interaction_matrix(interactions(None), tuple(f"ATC:{code}" for code in atc_class_names()))
    assert (matrix == matrix.T).all()
    assert not matrix.diagonal().any()
    assert matrix.sum() == 2 * len(package_interactions())


def test_a_terminologys_pairs_claim_no_severity(tmp_path: Path) -> None:
    (tmp_path / GAMENET_FILE).write_text("atc3_a,atc3_b\nB01A,M01A\n")
    table = terminology_interactions(str(tmp_path))
    assert table is not None
    assert pairs(table) == [("ATC:B01A", "ATC:M01A")]
    assert table["severity"].to_pylist() == [None]
    assert table["source"].to_pylist() == ["GAMENet matrix"]


def test_a_terminologys_pairs_replace_the_packages_classes_and_leave_its_substances(tmp_path: Path) -> None:
    (tmp_path / GAMENET_FILE).write_text("atc3_a,atc3_b\nB01A,M01A\n")
    table = interactions(str(tmp_path))
    assert pairs(between_classes(table)) == [("ATC:B01A", "ATC:M01A")]
    assert table.slice(1).equals(substance_interactions())


@pytest.mark.parametrize("without_pairs", [True, False])
def test_without_a_terminologys_pairs_the_packages_hold(tmp_path: Path, without_pairs: bool) -> None:
    table = interactions(str(tmp_path) if without_pairs else None)
    assert between_classes(table).equals(package_interactions())


def test_a_terminology_without_pairs_gives_none(tmp_path: Path) -> None:
    assert terminology_interactions(str(tmp_path)) is None


@pytest.mark.parametrize("text", ["first,second\nB01A,M01A\n", "", 'atc3_a,atc3_b\nB01A,"M01A'])
def test_an_unusable_table_of_pairs_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / GAMENET_FILE).write_text(text)
    with pytest.raises(UserError, match=GAMENET_FILE):
        terminology_interactions(str(tmp_path))

"""`leader data describe`: statistics counted by hand, their agreement with the manifest, and the page they make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.patients import FLOW, MAPPED_ROWS, PRESCRIPTION_ROWS, UNMAPPED, VISITS, read_events, write_hosp
from typer.testing import CliRunner

from leader_cli.main import app
from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.data import cohort, describe, describe_report
from leader_platform.data.dataset import INTERACTION_SCHEMA, TITLE_SCHEMA, PreparedData
from leader_platform.data.describe import Distribution
from leader_platform.data.interactions import interaction_matrix
from leader_platform.data.manifest import Counted, manifest
from leader_platform.data.prescribed_interactions import (
    InteractingPair,
    ListedPairs,
    interaction_statistics,
    interaction_tally,
)
from leader_platform.data.records import KINDS
from leader_platform.data.samples import SPLITS, samples
from leader_platform.data.vocabulary import count_values, fit_vocabulary
from leader_platform.errors import UserError
from leader_platform.evaluation.metrics import interaction_rate
from leader_platform.report import Chart, Table

CONFIG = LeaderConfig()
SPLIT = {10: "train", 20: "train", 40: "validation", 50: "test"}
INTERACTIONS = [
    ("ATC:N02B", "ATC:B01A", "major", "Bleeding.", "first list"),
    ("ATC:C03C", "ATC:C09A", "moderate", "Low pressure.", "first list"),
    ("ATC:C09A", "ATC:C03C", None, "The same again.", "second list"),
    ("ATC:B01A", "ATC:M01A", "major", "Nobody takes the second.", "first list"),
    ("ATC:B01A", "ATC:B01A", "major", "A class with itself.", "first list"),
    ("ATC:B01AC06", "ATC:B01AA03", "contraindicated", "Bleeding <b>& more</b>.", "first list"),
    ("ATC:B01AA03", "ATC:N02B", "major", "A substance with a class.", "first list"),
]


def interaction_table(rows: list[tuple[str | None, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(INTERACTION_SCHEMA.names, row, strict=True)) for row in rows])


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedData:
    """The hand-written patients as a data set in two files of visits."""
    out = str(tmp_path / "data")
    visits, tally = cohort.visits(read_events(write_hosp(tmp_path / "raw")), CONFIG.data)
    names = pa.array([SPLIT[subject] for subject in visits["subject_id"].to_pylist()])
    values = {name: count_values(visits.filter(pc.equal(names, name))) for name in SPLITS}
    vocabulary = fit_vocabulary(sum(values.values(), start=type(tally)()), 1)
    asked, _ = samples(visits, vocabulary, {}, CONFIG.data, CONFIG.prompt)
    for name in SPLITS:
        whose = pa.array([SPLIT[subject] == name for subject in asked["subject_id"].to_pylist()])
        part = asked.filter(whose)
        storage.write_parquet(f"{out}/samples/{name}/part-00000.parquet", part)
        tally[("samples", name)] = len(part)
        tally[("first visits", name)] = part["prior_visits"].to_pylist().count(0)
    tally[("prescription rows",)], tally[("mapped by", "drug name")] = PRESCRIPTION_ROWS, MAPPED_ROWS
    tally.update({("unmapped", name): count for name, count in UNMAPPED.items()})
    for part, rows in enumerate((visits.slice(0, 4), visits.slice(4))):
        storage.write_parquet(f"{out}/visits/part-{part:05d}.parquet", rows)
    storage.write_parquet(f"{out}/interactions.parquet", interaction_table(INTERACTIONS))
    titles = {"code": ["ATC:N02B"], "title": ["Other <i>analgesics</i> & antipyretics"]}
    storage.write_parquet(f"{out}/titles.parquet", pa.table(titles, schema=TITLE_SCHEMA))
    told = manifest("mimic4", CONFIG, Counted(tally, SPLIT, values, vocabulary))
    told |= {"warnings": ["A row was torn."], "fingerprint": "0123456789abcdef", "drug_mapping_source": "package"}
    storage.write_json(f"{out}/manifest.json", told)
    return PreparedData(out)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_visits_and_codes_are_counted_as_by_hand(prepared: PreparedData) -> None:
    found = describe.describe(prepared)
    assert (found.visits, found.patients) == (6, 4)
    assert found.visits_per_patient == Distribution({1: 2, 2: 2}, mean=1.5, median=1.5, maximum=2)
    assert found.codes_per_visit == {
        "diagnoses": Distribution({1: 4, 2: 1, 3: 1}, mean=1.5, median=1.0, maximum=3),
        "procedures": Distribution({0: 3, 1: 2, 2: 1}, mean=4 / 6, median=0.5, maximum=2),
        "medications": Distribution({1: 1, 2: 3, 3: 2}, mean=13 / 6, median=2.0, maximum=3),
        "labels": Distribution({1: 1, 2: 3, 3: 2}, mean=13 / 6, median=2.0, maximum=3),
    }
    assert list(found.medications.items()) == [
        ("ATC:N02B", 6),
        ("ATC:B01A", 2),
        ("ATC:C03C", 2),
        ("ATC:A10A", 1),
        ("ATC:C07A", 1),
        ("ATC:C09A", 1),
    ]


def test_patients_are_told_as_at_their_first_visit(prepared: PreparedData) -> None:
    found = describe.describe(prepared).patients_by
    assert found["gender"] == {"F": 2, "M": 2}
    assert found["age"] == {"10-19": 1, "40-49": 1, "70-79": 1, "90+": 1}
    assert found["insurance"] == {"PRIVATE": 2, "": 1, "MEDICARE": 1}
    assert found["marital_status"] == {"SINGLE": 2, "DIVORCED": 1, "MARRIED": 1}
    assert found["year"] == {"2014": 2, "2007": 1, "2017": 1}


def test_splits_are_told_with_their_labels(prepared: PreparedData) -> None:
    train, validation, test = (describe.describe(prepared).splits[name] for name in SPLITS)
    assert (train.samples, train.first_visits, train.labels, train.distinct_labels) == (4, 2, 9, 5)
    assert (train.mean_labels, train.mean_prior_visits) == (2.25, 0.5)
    assert (validation.samples, validation.mean_labels, test.samples, test.mean_labels) == (1, 2.0, 1, 2.0)


def test_interactions_are_counted_by_pair_within_each_visit(prepared: PreparedData) -> None:
    found = describe.describe(prepared).interactions
    classes = found["classes"]  # visits of 3, 2, 1, 3, 2 and 2 classes have 3 + 1 + 0 + 3 + 1 + 1 pairs
    assert (classes.pairs, classes.interacting, classes.rate) == (9, 3, 3 / 9)
    assert (classes.listed_pairs, classes.met_pairs, classes.visits_with_interaction) == (3, 2, 3)
    assert classes.by_severity == {"major": 2, "moderate": 1, "not stated": 1}
    assert classes.by_source == {"first list": 3, "second list": 1}
    assert [(pair.code_a, pair.code_b, pair.visits) for pair in classes.most_frequent] == [
        ("ATC:N02B", "ATC:B01A", 2),
        ("ATC:C03C", "ATC:C09A", 1),
    ]
    substances = found["substances"]  # 3 + 1 + 0 + 3 + 3 + 1 pairs
    assert (substances.pairs, substances.interacting, substances.rate) == (11, 1, 1 / 11)
    assert substances.most_frequent == (InteractingPair(*INTERACTIONS[5], visits=1),)


def test_statistics_add_up_to_what_the_manifest_says(prepared: PreparedData) -> None:
    found, told = describe.describe(prepared), prepared.manifest
    assert told["flow"] == FLOW
    assert found.visits == FLOW["of patients with enough visits"] == len(VISITS)
    assert found.patients == told["patients"] == sum(split["patients"] for split in told["splits"].values())
    for name, split in found.splits.items():
        assert (split.samples, split.first_visits) == (
            told["splits"][name]["samples"],
            told["splits"][name]["first_visits"],
        )
    for kind in KINDS:
        assert found.codes_per_visit[kind].mean == pytest.approx(told["mean_codes_per_visit"][kind])
    assert len(found.medications) == told["distinct_codes"]["medications"]
    for distribution in found.codes_per_visit.values():
        assert sum(distribution.counts.values()) == found.visits
    for values in found.patients_by.values():
        assert sum(values.values()) == found.patients


def test_batches_make_no_difference(prepared: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = describe.describe(prepared)
    monkeypatch.setattr(describe, "BATCH_ROWS", 1)
    assert describe.describe(prepared) == whole


CODES = [f"ATC:A0{number}A" for number in range(6)]
PAIRS = st.lists(st.tuples(st.sampled_from(CODES), st.sampled_from(CODES)).filter(lambda pair: pair[0] != pair[1]))


@given(st.lists(st.sets(st.sampled_from(CODES)), min_size=1), PAIRS)
def test_the_rate_is_the_one_that_evaluation_reports(stays: list[set[str]], pairs: list[tuple[str, str]]) -> None:
    table = pa.Table.from_pylist(
        [{"code_a": a, "code_b": b, "severity": None, "reason": "", "source": ""} for a, b in pairs],
        schema=INTERACTION_SCHEMA,
    )
    chosen = np.array([[code in stay for code in CODES] for stay in stays])
    listed = ListedPairs.of(table, "classes")
    visits = pa.RecordBatch.from_pydict(
        {"medications": pa.array([sorted(stay) for stay in stays], pa.list_(pa.string()))}
    )
    tally = interaction_tally(visits.slice(0, 1), listed)
    tally.update(interaction_tally(visits.slice(1), listed))
    found = interaction_statistics(tally, listed)
    expected = interaction_rate(chosen, interaction_matrix(table, tuple(CODES)))
    assert found.rate == (None if expected is None else pytest.approx(expected))
    assert found.visits_with_interaction == sum(any({a, b} <= stay for a, b in pairs) for stay in stays)


@given(st.lists(st.integers(0, 9), min_size=1))
def test_a_distribution_has_numpys_mean_and_median(values: list[int]) -> None:
    found = Distribution.of({value: values.count(value) for value in range(10)})
    assert found.mean == pytest.approx(np.mean(values))
    assert found.median == np.median(values)
    assert found.maximum == max(values)


# --- what is wrong with a data set -----------------------------------------------------------------------------------


def test_a_data_set_that_was_copied_in_part_is_told(prepared: PreparedData) -> None:
    Path(prepared.uri, "visits", "part-00001.parquet").unlink()
    with pytest.raises(UserError, match="holds 4 visits and its manifest says 6"):
        describe.describe(prepared)


def test_a_damaged_file_is_named(prepared: PreparedData) -> None:
    Path(prepared.uri, "visits", "part-00001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"part-00001\.parquet cannot be read"):
        describe.describe(prepared)


# --- page and command ------------------------------------------------------------------------------------------------


def sections_of(data: PreparedData) -> dict[str, tuple[str | Table | Chart, ...]]:
    found = describe_report.sections(data.manifest, describe.describe(data), data.titles)
    return {section.heading: section.blocks for section in found}


def test_the_page_has_a_chart_for_all_that_is_asked(prepared: PreparedData) -> None:
    charts = {
        heading: [block.title for block in blocks if isinstance(block, Chart)]
        for heading, blocks in sections_of(prepared).items()
    }
    assert charts == {
        "Cohort": ["Admissions left after each filter"],
        "Visits": ["Visits per patient", "Distinct codes per visit"],
        "Patients at their first visit": ["Age at the first visit, years"],
        "Medications": ["The most frequent of 6 medication classes"],
        "Drug mapping": ["Prescription rows and ATC"],
        "Splits": ["Samples by split"],
        "Interactions of the prescriptions": [
            "Most frequent interacting classes",
            "Most frequent interacting substances",
        ],
    }


def test_tables_tell_options_coverage_and_the_long_tail(prepared: PreparedData) -> None:
    tables = {
        block.caption: block
        for blocks in sections_of(prepared).values()
        for block in blocks
        if isinstance(block, Table)
    }
    assert ("data.min_visits", "1", 0, "visits") in tables["What each option removed"].rows
    assert [row[1] for row in tables["What each option removed"].rows if row[0] == "data.label_window_hours"] == [
        "whole stay"
    ]
    assert ("split", "patients at random") in tables["Facts"].rows
    assert tables["Prescription rows and ATC"].rows == [
        ("mapped by drug name", MAPPED_ROWS, pytest.approx(16 / 19)),
        ("not mapped", 3, pytest.approx(3 / 19)),
    ]
    assert tables["Most frequent of 2 unmapped names"].rows == [("Zzyzx, Study Drug", 2), ("(no name)", 1)]
    assert tables["Classes by share of visits"].rows == [
        ("50% and more", 1),
        ("10% to 50%", 5),
        ("1% to 10%", 0),
        ("0.1% to 1%", 0),
        ("less than 0.1%", 0),
    ]
    assert tables["Warnings"].rows == [("A row was torn.",)]


def test_years_that_no_table_tells_are_left_out(prepared: PreparedData) -> None:
    found = describe.describe(prepared)
    undated = replace(found, patients_by={**found.patients_by, "year": {"": found.patients}})

    def fields(statistics: describe.Description) -> set[str]:
        sections = describe_report.sections(prepared.manifest, statistics, {})
        return {row[0] for section in sections for table in section.blocks[:1] for row in getattr(table, "rows", ())}

    assert fields(found) - fields(undated) == {"calendar year, approximate"}


def test_describe_prints_and_writes_the_page_beside_the_data(prepared: PreparedData) -> None:
    result = CliRunner().invoke(app, ["data", "describe", prepared.uri])
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        f"Counting visits and samples in {prepared.uri} ...",
        f"The page is in {prepared.uri}/describe.html.",
    ]
    for text in ("Cohort from mimic4", "with a mapped medication", "Zzyzx, Study Drug", "0.3333", "Splits by patient"):
        assert text in result.stdout
    page = Path(prepared.uri, "describe.html").read_text()
    assert "Other &lt;i&gt;analgesics&lt;/i&gt; &amp; antipyretics" in page
    assert "Bleeding &lt;b&gt;&amp; more&lt;/b&gt;." in page
    assert "0123456789abcdef" in page
    assert CliRunner().invoke(app, ["data", "describe", prepared.uri]).exit_code == 0


def test_json_has_the_manifest_and_the_statistics(prepared: PreparedData, tmp_path: Path) -> None:
    page = tmp_path / "elsewhere" / "page.html"
    result = CliRunner().invoke(app, ["--json", "data", "describe", prepared.uri, "--html", str(page)])
    told = json.loads(result.stdout)
    assert told["flow"] == FLOW
    assert told["statistics"]["interactions"]["classes"]["rate"] == pytest.approx(1 / 3)
    assert told["statistics"]["visits_per_patient"]["counts"] == {"1": 2, "2": 2}
    assert page.is_file()
    assert not Path(prepared.uri, "describe.html").exists()


@pytest.mark.parametrize(
    ("html", "part"),
    [
        ("file/page.html", "--html file/page.html cannot be written"),
        ("data", "is a folder; name a file in it"),
        ("nowhere://page.html", "use a path, s3:// or gs://"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_all_is_counted(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, html: str, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["data", "describe", prepared.uri, "--html", html])
    assert isinstance(result.exception, UserError)
    assert part in str(result.exception)
    assert "Counting" not in result.stderr


def test_a_read_only_data_set_is_described_without_a_page(
    prepared: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage, "write_bytes", refuse)
    result = CliRunner().invoke(app, ["data", "describe", prepared.uri])
    assert result.exit_code == 0
    assert "Permission denied" in result.stderr
    assert "--html" in result.stderr

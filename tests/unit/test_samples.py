"""Visits to samples: which questions are asked, what is known when they are, and what the answers are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.patients import PROMPTS, SAMPLES, TABLES, VISITS, read_events, write_hosp

from leader_platform.config import DataConfig, PromptConfig
from leader_platform.data import cohort
from leader_platform.data.drugs import atc_class_names
from leader_platform.data.records import PatientRecord, Visit
from leader_platform.data.samples import SAMPLE_SCHEMA, samples, teaches
from leader_platform.data.vocabulary import Vocabulary, count_values, fit_vocabulary


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return cohort.visits(read_events(write_hosp(tmp_path_factory.mktemp("raw"))), DataConfig())[0]


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    events = read_events(write_hosp(tmp_path_factory.mktemp("raw")))
    known = {f"ATC:{code}": name for code, name in atc_class_names().items()}
    for kind in ("diagnosis_titles", "procedure_titles"):
        known |= {row["code"]: row["title"] for row in events[kind].to_pylist()}
    return known


@pytest.fixture(scope="module")
def vocabulary(visits: pa.Table) -> Vocabulary:
    return fit_vocabulary(count_values(visits), 1)


def by_id(table: pa.Table) -> dict[str, dict]:
    return {row["sample_id"]: row for row in table.to_pylist()}


def test_every_visit_is_a_sample(visits: pa.Table, vocabulary: Vocabulary) -> None:
    table, tally = samples(visits, vocabulary, {}, DataConfig(), PromptConfig())
    assert table.schema == SAMPLE_SCHEMA
    assert {key: (row["prior_visits"], row["labels"]) for key, row in by_id(table).items()} == SAMPLES
    assert sum(tally.values()) == 0


def test_history_is_what_came_before_in_time(visits: pa.Table, vocabulary: Vocabulary) -> None:
    row = by_id(samples(visits, vocabulary, {}, DataConfig(), PromptConfig())[0])["10-1000"]
    assert row["history"] == [{kind: VISITS[0][kind] for kind in ("diagnoses", "procedures", "medications")}]
    assert row["diagnoses"] == VISITS[1]["diagnoses"]
    assert row["age"] == 71
    assert row["marital_status"] == "WIDOWED"


@pytest.mark.parametrize("sample_id", list(PROMPTS))
def test_prompts_are_as_written(
    visits: pa.Table, vocabulary: Vocabulary, titles: dict[str, str], sample_id: str
) -> None:
    table, _ = samples(visits, vocabulary, titles, DataConfig(), PromptConfig())
    assert by_id(table)[sample_id]["prompt"] == PROMPTS[sample_id]


def test_last_asks_of_each_patients_last_visit_alone(visits: pa.Table, vocabulary: Vocabulary) -> None:
    table, _ = samples(visits, vocabulary, {}, DataConfig(sample_visits="last"), PromptConfig())
    assert set(by_id(table)) == {"10-1000", "20-3003", "40-5001", "50-6001"}


def test_history_is_cut_at_its_oldest_end(vocabulary: Vocabulary, visits: pa.Table) -> None:
    stay = visits.filter(pa.array([hadm == 3003 for hadm in visits["hadm_id"].to_pylist()])).to_pylist()[0]
    many = [{**stay, "hadm_id": n, "visit_number": n, "diagnoses": [f"ICD10CM:D{n}"]} for n in range(1, 6)]
    table = pa.Table.from_pylist(many, schema=visits.schema)
    rows = by_id(samples(table, vocabulary, {}, DataConfig(max_history_visits=2), PromptConfig())[0])
    assert [visit["diagnoses"] for visit in rows["20-5"]["history"]] == [["ICD10CM:D3"], ["ICD10CM:D4"]]
    assert rows["20-5"]["prior_visits"] == 4
    none = by_id(samples(table, vocabulary, {}, DataConfig(max_history_visits=0), PromptConfig())[0])
    assert all(row["history"] == [] for row in none.values())


def test_labels_that_training_never_saw_are_counted_out(visits: pa.Table) -> None:
    train = visits.filter(pa.array([subject == 40 for subject in visits["subject_id"].to_pylist()]))
    known = fit_vocabulary(count_values(train), 1)  # B01A and N02B
    table, tally = samples(visits, known, {}, DataConfig(), PromptConfig())
    assert by_id(table)["10-2000"]["labels"] == ["ATC:N02B", "ATC:B01A"]
    assert by_id(table)["10-1000"]["history"][0]["medications"] == ["ATC:N02B", "ATC:B01A", "ATC:C07A"]
    assert tally[("labels outside the training vocabulary",)] == 5


def test_a_sample_without_a_known_label_is_counted_instead(visits: pa.Table, vocabulary: Vocabulary) -> None:
    codes = {**vocabulary.codes, "medications": {"<padding>": 0, "<unknown>": 1, "ATC:C03C": 2}}
    table, tally = samples(visits, Vocabulary(codes=codes, profile={}), {}, DataConfig(), PromptConfig())
    assert set(by_id(table)) == {"10-1000", "20-3003"}
    assert tally[("samples without a known medication",)] == 4
    assert by_id(table)["10-1000"]["prior_visits"] == 1


def test_the_order_of_samples_is_random_and_always_the_same(
    tmp_path: Path, visits: pa.Table, vocabulary: Vocabulary
) -> None:
    first, _ = samples(visits, vocabulary, {}, DataConfig(), PromptConfig())
    header, *rest = TABLES["admissions"].splitlines()
    other = "\n".join([header, *reversed(rest)]) + "\n"
    again = cohort.visits(read_events(write_hosp(tmp_path, admissions=other)), DataConfig())[0]
    assert samples(again, vocabulary, {}, DataConfig(), PromptConfig())[0].equals(first)
    assert first["sample_id"].to_pylist() != list(SAMPLES)


def test_a_record_of_a_sample_holds_no_label(visits: pa.Table, vocabulary: Vocabulary) -> None:
    row = by_id(samples(visits, vocabulary, {}, DataConfig(), PromptConfig())[0])["10-1000"]
    record = PatientRecord.from_sample(row)
    assert record.current == Visit(("ICD10CM:N179", "ICD10CM:I10"))
    assert [visit.medications for visit in record.history] == [("ATC:N02B", "ATC:B01A", "ATC:C07A")]
    assert not record.is_first_visit
    assert record.profile["gender"] == "F"


def test_a_record_leaves_out_what_the_profile_lacks(visits: pa.Table, vocabulary: Vocabulary) -> None:
    row = by_id(samples(visits, vocabulary, {}, DataConfig(), PromptConfig())[0])["40-5001"]
    record = PatientRecord.from_sample(row)
    assert record.is_first_visit
    assert "insurance" not in record.profile


def test_visits_of_one_icd_version_teach(visits: pa.Table) -> None:
    """10's first visit has both versions, 20's first has 9 alone."""

    def taught(version: int | None) -> set[int]:
        return set(
            visits.filter(pa.array(teaches(visits, DataConfig(train_icd_version=version))))["hadm_id"].to_pylist()
        )

    everything = set(visits["hadm_id"].to_pylist())
    assert taught(None) == everything
    assert taught(9) == {3001}
    assert taught(10) == everything - {2000, 3001}


def test_no_visits_give_an_empty_table_of_samples(visits: pa.Table, vocabulary: Vocabulary) -> None:
    table, _ = samples(visits.slice(0, 0), vocabulary, {}, DataConfig(), PromptConfig())
    assert len(table) == 0
    assert table.schema == SAMPLE_SCHEMA

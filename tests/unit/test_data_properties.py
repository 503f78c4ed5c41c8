"""What must hold of visits, samples and prompts for any cohort, on random ones."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from support.cohorts import Events, events

from leader_platform.config import DataConfig, PromptConfig
from leader_platform.data import cohort
from leader_platform.data.prompts import fit_prompt, render_prompt, title_of
from leader_platform.data.records import KINDS, PatientRecord
from leader_platform.data.samples import samples
from leader_platform.data.vocabulary import Vocabulary, count_values, fit_vocabulary

TITLES = {"ATC:N02B": "Analgesics", "ATC:B01A": "Antithrombotics", "ICD10CM:D1A": "One, with a comma"}
configs = st.builds(
    DataConfig,
    sample_visits=st.sampled_from(["every", "last"]),
    label_window_hours=st.sampled_from([None, 24.0]),
    require_procedures=st.booleans(),
    min_visits=st.integers(1, 3),
    max_history_visits=st.integers(0, 4),
)
prompts = st.builds(PromptConfig, history_visits=st.integers(0, 4), profile=st.booleans())


def visits_of(found: Events, config: DataConfig) -> tuple[list[dict], pa.Table, Vocabulary]:
    visits, _ = cohort.visits(found, config)
    return visits.to_pylist(), visits, fit_vocabulary(count_values(visits), 1)


@given(events(), configs)
def test_visits_are_in_time_order_and_hold_their_own_codes(found: Events, config: DataConfig) -> None:
    rows, _, _ = visits_of(found, config)
    by_patient = defaultdict(list)
    for row in rows:
        by_patient[row["subject_id"]].append(row)
        assert all(re.fullmatch(rf"ICD10CM:D{row['hadm_id']}[ABC]", code) for code in row["diagnoses"])
        for kind in (*KINDS, "labels", "substances"):
            assert len(set(row[kind])) == len(row[kind])
        assert set(row["labels"]) <= set(row["medications"])
        assert {code[:8] for code in row["substances"]} <= set(row["medications"])
    for stays in by_patient.values():
        assert len(stays) >= config.min_visits
        assert [stay["visit_number"] for stay in stays] == list(range(1, len(stays) + 1))
        assert [stay["admitted_at"] for stay in stays] == sorted(stay["admitted_at"] for stay in stays)


def seconds(started_at: datetime | None, admitted_at: datetime) -> float:
    """From admission to the start; what is missing or decades away stands at the end, in no order of its own."""
    late = 2.0**30
    return late if started_at is None else max(-late, min(late, (started_at - admitted_at).total_seconds()))


@given(events())
def test_every_list_is_what_a_loop_over_the_rows_makes_of_it(found: Events) -> None:
    """The plain reading of the rules, against the one by packed integers."""
    rows, _, _ = visits_of(found, DataConfig(label_window_hours=24))
    for row in rows:
        coded = [event for event in found["diagnoses"].to_pylist() if event["hadm_id"] == row["hadm_id"]]
        ordered = sorted(coded, key=lambda event: (event["position"] or 9, event["code"]))
        assert row["diagnoses"] == list(dict.fromkeys(event["code"] for event in ordered))
        drugs = [event for event in found["medications"].to_pylist() if event["hadm_id"] == row["hadm_id"]]
        drugs = [(seconds(event["started_at"], row["admitted_at"]), event["atc"]) for event in drugs]
        drugs.sort()
        assert row["medications"] == list(dict.fromkeys(atc[:8] for _, atc in drugs))
        inside = [atc[:8] for start, atc in drugs if start < 24 * 3600]
        assert row["labels"] == list(dict.fromkeys(inside))
        assert row["substances"] == list(dict.fromkeys(atc for _, atc in drugs if len(atc) == 11))


@given(events(), configs, prompts)
def test_a_sample_tells_the_past_and_asks_of_the_present(found: Events, data: DataConfig, prompt: PromptConfig) -> None:
    rows, visits, vocabulary = visits_of(found, data)
    stays = {row["hadm_id"]: row for row in rows}
    table, _ = samples(visits, vocabulary, TITLES, data, prompt)
    for row in table.to_pylist():
        current = stays[row["hadm_id"]]
        past = [stay for stay in rows if stay["subject_id"] == row["subject_id"]]
        past = past[: current["visit_number"] - 1]
        assert all(stay["admitted_at"] <= current["admitted_at"] for stay in past)
        kept = past[max(0, len(past) - data.max_history_visits) :]
        assert row["history"] == [{kind: stay[kind] for kind in KINDS} for stay in kept]
        assert row["prior_visits"] == len(past)
        assert row["labels"]
        asked = row["prompt"].split("In this visit")[1]
        assert not any(title_of(code, TITLES) in asked for code in current["medications"])


@given(events(), configs, prompts)
def test_prompts_of_a_table_are_those_of_its_records(found: Events, data: DataConfig, prompt: PromptConfig) -> None:
    _, visits, vocabulary = visits_of(found, data)
    table, _ = samples(visits, vocabulary, TITLES, data, prompt)
    for row in table.to_pylist():
        assert row["prompt"] == render_prompt(PatientRecord.from_sample(row), TITLES, prompt)


@given(events(), st.integers(64, 200))
def test_truncation_drops_the_oldest_history_first(found: Events, max_tokens: int) -> None:
    _, visits, vocabulary = visits_of(found, DataConfig())
    table, _ = samples(visits, vocabulary, TITLES, DataConfig(), PromptConfig())
    config = PromptConfig(history_visits=4, max_tokens=max_tokens)
    for row in table.to_pylist():
        fitted = fit_prompt(PatientRecord.from_sample(row), TITLES, config, lambda text: list(text.encode()[::4]))
        told = [int(number) for number in re.findall(r"In the (\d+) visit", fitted.text)]
        assert told == list(range(len(row["history"]) - len(told) + 1, len(row["history"]) + 1))
        assert not fitted.dropped_codes or not told
        assert len(fitted.token_ids) <= max_tokens or not told


@given(events(), st.sampled_from(["random", "time"]), st.integers(0, 3))
def test_no_patient_is_in_two_splits_and_every_split_has_one(found: Events, split: str, seed: int) -> None:
    years = {row["subject_id"]: row["year_shift"] + 2150 for row in found["patients"].to_pylist()}
    names = cohort.split_by_patient(years, DataConfig(split=split, split_seed=seed))
    assert set(names) == set(years)
    assert set(names.values()) == {"train", "validation", "test"}

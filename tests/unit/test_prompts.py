"""The teacher's text: golden prompts, and what goes when a prompt is too long."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from leader_platform.config import PromptConfig
from leader_platform.data.prompts import FittedPrompt, fit_prompt, render_prompt
from leader_platform.data.records import PatientRecord, Visit

TITLES = {
    "ICD10CM:I10": "Hypertension",
    "ICD9CM:4019": "Old hypertension",
    "ICD10CM:N179": "Acute kidney failure",
    "ICD9PCS:3961": "Heart-lung machine",
    "ATC:N02B": "Analgesics",
    "ATC:B01A": "Antithrombotics",
}
FIRST_VISIT = PatientRecord({"gender": "F", "age": 71}, current=Visit(("ICD10CM:I10", "ICD10CM:N179")))
THREE_VISITS = PatientRecord(
    {"gender": "M"},
    history=(
        Visit(("ICD9CM:4019",), ("ICD9PCS:3961",), ("ATC:N02B", "ATC:B01A")),
        Visit(("ICD10CM:N179", "ICD10CM:X99"), (), ("ATC:C07A",)),
    ),
    current=Visit(("ICD10CM:I10",), ("ICD9PCS:3961",), ("ATC:SECRET",)),
)
LONG = PatientRecord(
    {"gender": "F", "age": 71},
    history=tuple(Visit((f"ICD10CM:OLD{number}",), (), ("ATC:N02B",)) for number in range(1, 5)),
    current=Visit(tuple(f"ICD10CM:D{i}" for i in range(60)), tuple(f"ICD10PCS:P{i}" for i in range(60))),
)


def words(text: str) -> list[int]:
    return list(range(len(text.split())))


def fit(record: PatientRecord, max_tokens: int, history_visits: int = 3) -> FittedPrompt:
    return fit_prompt(record, TITLES, PromptConfig(max_tokens=max_tokens, history_visits=history_visits), words)


def test_prompt_of_a_first_visit() -> None:
    assert render_prompt(FIRST_VISIT, TITLES, PromptConfig()) == (
        "The patient is a 71-year-old female. The patient has 0 times ICU visits. In this visit, the patient has "
        "diagnosis: Hypertension, Acute kidney failure; procedures: none. Then, the patient should be prescribed:"
    )


def test_prompt_of_many_visits_shows_each_visits_own_codes() -> None:
    """The published code shows the current visit's diagnoses in every history visit (FIELD, defect 1)."""
    assert render_prompt(THREE_VISITS, TITLES, PromptConfig()) == (
        "The patient is a male. The patient has 2 times ICU visits. "
        "In the 1 visit, the patient had diagnosis: Old hypertension; procedures: Heart-lung machine. "
        "The patient was prescribed drugs: Analgesics, Antithrombotics. "
        "In the 2 visit, the patient had diagnosis: Acute kidney failure, X99; procedures: none. "
        "The patient was prescribed drugs: C07A. "
        "In this visit, the patient has diagnosis: Hypertension; procedures: Heart-lung machine. "
        "Then, the patient should be prescribed:"
    )


def test_the_current_medications_are_not_told() -> None:
    assert "SECRET" not in render_prompt(THREE_VISITS, TITLES, PromptConfig())


def test_only_the_last_visits_are_told_and_keep_their_numbers() -> None:
    text = render_prompt(THREE_VISITS, TITLES, PromptConfig(history_visits=1))
    assert "has 2 times ICU visits" in text
    assert "In the 1 visit" not in text
    assert "In the 2 visit, the patient had diagnosis: Acute kidney failure" in text


def test_no_history_is_told_when_none_is_allowed() -> None:
    text = render_prompt(THREE_VISITS, TITLES, PromptConfig(history_visits=0))
    assert "patient had" not in text
    assert "Hypertension" in text


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ({}, ""),
        ({"age": 40}, "The patient is a 40-year-old person. "),
        ({"age": 81, "gender": "m"}, "The patient is an 81-year-old male. "),
        ({"age": 18, "gender": "F"}, "The patient is an 18-year-old female. "),
        ({"age": 11, "gender": "F"}, "The patient is an 11-year-old female. "),
        ({"age": 0, "gender": "F"}, "The patient is a 0-year-old female. "),
        ({"gender": "X", "age": None}, ""),
    ],
)
def test_the_profile_sentence(profile: dict[str, object], sentence: str) -> None:
    text = render_prompt(replace(FIRST_VISIT, profile=profile), TITLES, PromptConfig())
    assert text.startswith(f"{sentence}The patient has 0 times")


def test_without_a_profile_the_prompt_is_the_papers() -> None:
    text = render_prompt(FIRST_VISIT, TITLES, PromptConfig(profile=False))
    assert text.startswith("The patient has 0 times ICU visits. In this visit,")


def test_a_prompt_that_fits_is_left_as_it_is() -> None:
    fitted = fit(THREE_VISITS, 500)
    assert fitted.text == render_prompt(THREE_VISITS, TITLES, PromptConfig())
    assert fitted.token_ids == words(fitted.text)
    assert (fitted.dropped_visits, fitted.dropped_codes, fitted.truncated) == (0, 0, False)


@pytest.mark.parametrize("dropped", [1, 2, 3])
def test_the_oldest_visits_go_first(dropped: int) -> None:
    kept = render_prompt(LONG, TITLES, PromptConfig(history_visits=3 - dropped))
    fitted = fit(LONG, len(words(kept)))
    assert fitted.text == kept
    assert (fitted.dropped_visits, fitted.dropped_codes, fitted.truncated) == (dropped, 0, True)
    assert [number for number in range(1, 5) if f"OLD{number}" in kept] == list(range(2 + dropped, 5))


def test_visits_that_are_never_told_do_not_count_as_dropped() -> None:
    assert fit(LONG, 2048, history_visits=2).dropped_visits == 0


def test_the_current_visit_is_never_cut_for_history() -> None:
    whole = len(words(render_prompt(LONG, TITLES, PromptConfig(history_visits=0))))
    for max_tokens in range(whole, whole + 80, 7):
        text = fit(LONG, max_tokens).text
        assert all(code.split(":")[1] in text for code in (*LONG.current.diagnoses, *LONG.current.procedures))


@pytest.mark.parametrize("max_tokens", range(64, 147, 5))
def test_codes_are_cut_last_listed_first_procedures_before_diagnoses(max_tokens: int) -> None:
    fitted = fit(LONG, max_tokens)
    codes = [code.split(":")[1] for code in (*LONG.current.diagnoses, *LONG.current.procedures)]
    told = [word for word in re.findall(r"\w+", fitted.text) if word in codes]
    assert len(fitted.token_ids) <= max_tokens
    assert fitted.dropped_visits == 3
    assert told == codes[: len(codes) - fitted.dropped_codes]
    assert fitted.text.endswith("Then, the patient should be prescribed:")


@pytest.mark.parametrize("max_tokens", range(64, 147, 5))
def test_no_code_is_cut_that_would_fit(max_tokens: int) -> None:
    one_more = len(LONG.current.diagnoses) * 2 - fit(LONG, max_tokens).dropped_codes + 1
    longer = Visit(LONG.current.diagnoses[:one_more], LONG.current.procedures[: max(0, one_more - 60)])
    text = render_prompt(replace(LONG, current=longer), TITLES, PromptConfig(history_visits=0))
    assert len(words(text)) > max_tokens

"""The text that the teacher reads, after the paper's template (FIELD.md), and its fitting into a number of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leader_platform.config import PromptConfig
from leader_platform.data.records import PatientRecord, Visit

# The paper's template, for one record here and for columns of them in `prompt_columns`.
NUM_VISITS = "The patient has {number} times ICU visits."
CONDITIONS = "diagnosis: {diagnoses}; procedures: {procedures}."
PAST_VISIT = "In the {number} visit, the patient had {conditions} The patient was prescribed drugs: {medications}."
CURRENT_VISIT = "In this visit, the patient has {conditions}"
QUESTION = "Then, the patient should be prescribed:"
NOTHING = "none"

_ARTICLE = {True: "an", False: "a"}
_SPOKEN_VOWEL = re.compile(r"(8\d?|11|18)-")  # eight, eleven, eighteen, eighty
_SEX = {"F": "female", "M": "male"}


def render_prompt(record: PatientRecord, titles: Mapping[str, str], config: PromptConfig) -> str:
    """The prompt of a record with as many of its last history visits as `config` allows.

    A visit that is told keeps its number among all of the record's; a record holds the most recent visits of a long
    history (`data.max_history_visits`), in training as in serving. The current visit shows diagnoses and procedures
    only; its medications are the question.
    """
    told = record.history[max(0, len(record.history) - config.history_visits) :]
    first_number = len(record.history) - len(told) + 1
    parts = [profile_sentence(record.profile)] if config.profile else []
    parts.append(NUM_VISITS.format(number=len(record.history)))
    for number, visit in enumerate(told, start=first_number):
        drugs, conditions = _titles(visit.medications, titles), _conditions(visit, titles)
        parts.append(PAST_VISIT.format(number=number, conditions=conditions, medications=drugs))
    parts += [CURRENT_VISIT.format(conditions=_conditions(record.current, titles)), QUESTION]
    return " ".join(part for part in parts if part)


def title_of(code: str, titles: Mapping[str, str]) -> str:
    """A code without a title speaks for itself."""
    return titles.get(code) or code.split(":", 1)[-1]


def _conditions(visit: Visit, titles: Mapping[str, str]) -> str:
    return CONDITIONS.format(diagnoses=_titles(visit.diagnoses, titles), procedures=_titles(visit.procedures, titles))


def _titles(codes: Sequence[str], titles: Mapping[str, str]) -> str:
    return ", ".join(title_of(code, titles) for code in codes) or NOTHING


def profile_sentence(profile: Mapping[str, Any]) -> str:
    """Age and sex as far as they are known, in one sentence; empty when neither is."""
    sex = _SEX.get(str(profile.get("gender", "")).upper(), "")
    age = profile.get("age")
    if age is None and not sex:
        return ""
    described = " ".join(filter(None, [f"{int(age)}-year-old" if age is not None else "", sex or "person"]))
    return f"The patient is {_ARTICLE[bool(_SPOKEN_VOWEL.match(described))]} {described}."


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits, its tokens, and what had to be left out of it."""

    text: str
    token_ids: list[int]
    dropped_visits: int
    dropped_codes: int

    @property
    def truncated(self) -> bool:
        return bool(self.dropped_visits or self.dropped_codes)


def fit_prompt(
    record: PatientRecord, titles: Mapping[str, str], config: PromptConfig, tokenize: Callable[[str], list[int]]
) -> FittedPrompt:
    """The longest prompt of at most `config.max_tokens` tokens: the oldest told visit goes first (FIELD, defect 3), and
    only when none is left the last-listed, least important, codes of the current visit, procedures before diagnoses."""
    most = min(config.history_visits, len(record.history))
    for history_visits in range(most, -1, -1):
        text = render_prompt(record, titles, config.model_copy(update={"history_visits": history_visits}))
        token_ids = tokenize(text)
        if len(token_ids) <= config.max_tokens:
            return FittedPrompt(text, token_ids, most - history_visits, 0)
    return _fit_current(record, titles, config.model_copy(update={"history_visits": 0}), tokenize, most)


def _fit_current(
    record: PatientRecord,
    titles: Mapping[str, str],
    config: PromptConfig,
    tokenize: Callable[[str], list[int]],
    dropped_visits: int,
) -> FittedPrompt:
    """Bisection for the most codes of the current visit that fit."""
    codes = [("diagnoses", code) for code in record.current.diagnoses]
    codes += [("procedures", code) for code in record.current.procedures]

    def attempt(num_codes: int) -> FittedPrompt:
        kept = codes[:num_codes]
        kinds = {kind: tuple(code for of, code in kept if of == kind) for kind in ("diagnoses", "procedures")}
        text = render_prompt(replace(record, current=Visit(**kinds)), titles, config)
        return FittedPrompt(text, tokenize(text), dropped_visits, len(codes) - num_codes)

    fits, too_many = 0, len(codes)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if len(attempt(middle).token_ids) <= config.max_tokens else (fits, middle)
    return attempt(fits)

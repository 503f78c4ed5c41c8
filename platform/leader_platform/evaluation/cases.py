"""What is judged, whatever model answers: samples, their labels, and the groups that results are told for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.data.lists import keep_values, lengths, whole
from leader_platform.data.vocabulary import Vocabulary, profile_value
from leader_platform.evaluation.metrics import Bools, Floats, Integers

PROFILE_GROUPS = ("gender", "age", "race", "insurance")
GROUP_COLUMNS = ("subject_id", "prior_visits", *PROFILE_GROUPS)  # of the samples that `make_groups` reads
_RACE_SEPARATOR = re.compile(r" ?/| - | OR ")


@dataclass(frozen=True)
class Cases:
    """Samples with their labels. Arrays are row for row with `sample_ids`, columns in the order of `classes`."""

    sample_ids: list[str]
    subjects: np.ndarray  # [samples], patients
    classes: tuple[str, ...]  # those of training and those of the labels: one that training never saw counts as missed
    labels: Bools  # [samples, classes]
    groups: dict[str, Bools]  # name -> [samples], as `make_groups` makes them
    rare: Bools  # [classes], as `rarest_third` makes it

    @cached_property
    def patients(self) -> Integers:
        """The number of each sample's patient, from 0 [samples]."""
        return np.unique(self.subjects, return_inverse=True)[1]


@dataclass(frozen=True)
class Answers:
    """One model's answers to cases, trained with one seed; both [samples, classes]."""

    scores: Floats  # float32 probabilities; 0 for a class that the model cannot name
    chosen: Bools  # what it recommends: scores of at least a threshold that was tuned on validation


def in_columns(values: np.ndarray, medications: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Values [samples, medications] of a model's own medications in the columns of `classes`: [samples, classes].

    Classes that the model cannot name are 0, or False.
    """
    column = {code: index for index, code in enumerate(classes)}
    placed = np.zeros((len(values), len(classes)), dtype=values.dtype)
    placed[:, [column[code] for code in medications]] = values
    return placed


def rarest_third(training_visits: np.ndarray) -> Bools:
    """Which classes are the rarest third, rounded down, by how many training visits have each; both [classes].

    Of equally rare ones the first.
    """
    rare = np.zeros(len(training_visits), dtype=bool)
    rare[np.argsort(training_visits, kind="stable")[: len(training_visits) // 3]] = True
    return rare


def unseen_diagnoses(diagnoses: pa.ChunkedArray, vocabulary: Vocabulary) -> Bools:
    """Whether a sample's current visit has diagnoses and the vocabulary knows none of them [samples]."""
    lists = whole(diagnoses)
    known = pc.is_in(pc.list_flatten(lists), value_set=pa.array(vocabulary.codes["diagnoses"], pa.string()))
    num_known = lengths(keep_values(lists, known.to_numpy(zero_copy_only=False)))
    return (lengths(lists) > 0) & (num_known == 0)


def make_groups(samples: pa.Table, unseen: Bools, min_patients: int) -> dict[str, Bools]:
    """The groups of samples that results are told for: name -> bool [samples].

    `samples` has `GROUP_COLUMNS`, of all folds where there are folds; `unseen` is their `unseen_diagnoses`. Kinds of
    visits come first ("all", "first_visit", "multi_visit", "unseen_diagnoses"; those without a sample are left out),
    then profile values ("age=60-69") of `min_patients` patients or more. Missing values make no group.
    """
    first = samples["prior_visits"].to_numpy() == 0
    visits = {"all": np.ones_like(first), "first_visit": first, "multi_visit": ~first, "unseen_diagnoses": unseen}
    subjects = samples["subject_id"].to_numpy()
    profile = {
        f"{field}={value}": rows
        for field in PROFILE_GROUPS
        for value, rows in _rows_of_values(field, samples[field]).items()
        if len(np.unique(subjects[rows])) >= min_patients
    }
    return {name: rows for name, rows in visits.items() if rows.any()} | profile


def _rows_of_values(field: str, column: pa.ChunkedArray) -> dict[str, Bools]:
    """Value of a profile field -> the samples that have it [samples], in order of the values."""
    encoded = whole(column.dictionary_encode(null_encoding="encode"))
    names = np.array([_value(field, value) for value in encoded.dictionary.to_pylist()], dtype=str)
    of_sample = names[encoded.indices.to_numpy()]
    return {str(name): of_sample == name for name in np.unique(names) if name}


def _value(field: str, value: Any) -> str:
    """As `profile_value`; of a race what stands before the first separator: "WHITE - RUSSIAN" is "WHITE"."""
    name = profile_value(field, value)
    return _RACE_SEPARATOR.split(name)[0] if field == "race" else name

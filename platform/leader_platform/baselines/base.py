"""What a baseline is: a model that is fitted on examples and gives each medication a probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from leader_platform.data.records import PatientRecord
from leader_platform.errors import UserError
from leader_platform.evaluation.metrics import Bools, Floats, average_precision

_SMALLEST = 1e-4


@dataclass(frozen=True)
class Examples:
    """Samples with their answers."""

    records: Sequence[PatientRecord]
    labels: Bools  # [samples, medications], in the order of the vocabulary's medications


class Baseline(Protocol):
    """Made from `Knowledge` of the training split, then fitted once, then asked."""

    def fit(self, train: Examples, validation: Examples) -> Self:
        """Learn from `train`. `validation` is for choices alone, such as the strength of a penalty."""

    def predict_proba(self, records: Sequence[PatientRecord]) -> np.ndarray:
        """Probabilities float32 [records, medications]."""


def mean_prauc(labels: Bools, scores: Floats) -> float:
    """The mean average precision of the samples that have a label; both [samples, medications].

    `UserError` when there is no such sample: nothing can be chosen by it.
    """
    labelled = labels.any(axis=1)
    if not labelled.any():
        raise UserError(
            "No validation sample has a medication that training knows, so a baseline cannot choose its penalty; "
            "prepare the data from more patients."
        )
    return float(average_precision(labels[labelled], scores[labelled]).mean())


def clip(probabilities: Floats) -> np.ndarray:
    """Probabilities as float32 that are neither 0 nor 1, so that their log-odds are finite."""
    return np.clip(probabilities, _SMALLEST, 1 - _SMALLEST).astype(np.float32)

"""The popularity baseline: the same answer for everyone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from leader_platform.baselines.base import Examples, clip
from leader_platform.data.records import PatientRecord
from leader_platform.predict import Knowledge


class Popularity:
    """Each medication's share of the training samples."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.shares = np.zeros(len(knowledge.vocabulary.medications), np.float32)

    def fit(self, train: Examples, validation: Examples) -> Self:
        self.shares = clip(train.labels.mean(axis=0))
        return self

    def predict_proba(self, records: Sequence[PatientRecord]) -> np.ndarray:
        return np.tile(self.shares, (len(records), 1))

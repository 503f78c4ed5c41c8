"""The previous visit baseline: what a patient was given last time is given again, as often as such medications are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from leader_platform.baselines.base import Examples, clip
from leader_platform.baselines.popularity import Popularity
from leader_platform.data.records import PatientRecord
from leader_platform.data.vocabulary import Vocabulary
from leader_platform.evaluation.metrics import Bools
from leader_platform.predict import Knowledge

# Samples that the expectation weighs against what was counted; 1 to 30 differ by 0.002 of PRAUC on the MIMIC-IV demo.
_PRIOR_SAMPLES = 10


class PreviousVisit:
    """Two shares of training samples for each medication: how often it is given when the previous visit had it, and how
    often when it had not.

    Both are drawn towards what is expected of a rare medication: the share at which medications in general are given
    again, and the medication's popularity. A record whose previous visit tells no known medication, as a first visit,
    is answered by popularity.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self.vocabulary = knowledge.vocabulary
        self.popularity = Popularity(knowledge)

    def fit(self, train: Examples, validation: Examples) -> Self:
        popularity = self.popularity.fit(train, validation).shares
        given = previous_medications(train.records, self.vocabulary)
        followed = given.any(axis=1)
        self.again, self.anew = renewal_shares(given[followed], train.labels[followed], popularity)
        return self

    def predict_proba(self, records: Sequence[PatientRecord]) -> np.ndarray:
        given = previous_medications(records, self.vocabulary)
        followed = given.any(axis=1, keepdims=True)
        return np.where(followed, np.where(given, self.again, self.anew), self.popularity.predict_proba(records))


def previous_medications(records: Sequence[PatientRecord], vocabulary: Vocabulary) -> Bools:
    """Which known medications the visit before the current one had: [records, medications]."""
    given = np.zeros((len(records), len(vocabulary.medications)), dtype=bool)
    for row, record in enumerate(records):
        given[row, vocabulary.previous_labels(record)] = True
    return given


def renewal_shares(given: Bools, labels: Bools, popularity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each medication is given when the visit before had it, and when it had not: both [medications].

    `given` and `labels` [samples, medications] are of the visit before and of the current one, `popularity`
    [medications] is what a rare medication is expected to be given anew.
    """
    given_again = (np.count_nonzero(given & labels) + 1) / (np.count_nonzero(given) + 2)
    again = _drawn((given & labels).sum(axis=0), given.sum(axis=0), given_again)
    return again, _drawn((~given & labels).sum(axis=0), (~given).sum(axis=0), popularity)


def _drawn(hits: np.ndarray, samples: np.ndarray, expected: float | np.ndarray) -> np.ndarray:
    """hits / samples of each medication, drawn towards what is expected."""
    return clip((hits + _PRIOR_SAMPLES * expected) / (samples + _PRIOR_SAMPLES))

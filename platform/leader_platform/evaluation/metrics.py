"""The metrics of a set of samples. Pure functions of numpy arrays, checked against scikit-learn and torchmetrics.

Everywhere `labels` is bool [samples, medications], `scores` float and `chosen` bool of the same shape. A metric of each
sample is NaN where it has no meaning, and such samples are left out of its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.01), 2)


@dataclass(frozen=True)
class Ranking:
    """Each sample's medications by falling score; all arrays are [samples, medications].

    `hits` says whether the medication of a rank is a label. `first` and `last` are the ranks, from 0, between which the
    scores are equal to its own: medications of equal score are taken together, as scikit-learn does.
    """

    hits: Bools
    first: Integers
    last: Integers

    @classmethod
    def of(cls, labels: Bools, scores: Floats) -> Ranking:
        order = np.argsort(-scores, axis=1)
        ranked = np.take_along_axis(scores, order, axis=1)
        changes = ranked[:, 1:] != ranked[:, :-1]
        edge = np.ones((len(scores), 1), dtype=bool)
        ranks, num_ranks = np.arange(scores.shape[1]), scores.shape[1]
        starts = np.where(np.hstack([edge, changes]), ranks, 0)
        ends = np.where(np.hstack([changes, edge]), ranks, num_ranks)
        return cls(
            hits=np.take_along_axis(labels, order, axis=1),
            first=np.maximum.accumulate(starts, axis=1),
            last=np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1],
        )

    def average_precision(self) -> Floats:
        """Area under each sample's precision-recall curve [samples]; NaN for a sample without a label."""
        num_hits = np.take_along_axis(np.cumsum(self.hits, axis=1), self.last, axis=1)
        return _divide((num_hits / (self.last + 1) * self.hits).sum(axis=1), self.hits.sum(axis=1))

    def auroc(self) -> Floats:
        """Share of a sample's pairs of a label and another medication that are in order, ties counting half [samples].

        NaN for a sample with no label or with nothing else.
        """
        num_labels = self.hits.sum(axis=1)
        ahead = ((self.first + self.last) / 2 * self.hits).sum(axis=1)  # of the labels, by labels and others alike
        ahead_by_others = ahead - num_labels * (num_labels - 1) / 2
        return 1 - _divide(ahead_by_others, num_labels * (self.hits.shape[1] - num_labels))


def average_precision(labels: Bools, scores: Floats) -> Floats:
    """Area under each sample's precision-recall curve [samples], as scikit-learn's `average_precision_score`."""
    return Ranking.of(labels, scores).average_precision()


def auroc(labels: Bools, scores: Floats) -> Floats:
    """Area under each sample's receiver operating characteristic [samples], as scikit-learn's `roc_auc_score`."""
    return Ranking.of(labels, scores).auroc()


def jaccard(labels: Bools, chosen: Bools) -> Floats:
    """|both| / |either| of each sample [samples]; 1 where both are empty."""
    either = (labels | chosen).sum(axis=1)
    return np.where(either == 0, 1.0, (labels & chosen).sum(axis=1) / np.maximum(either, 1))


def f1(labels: Bools, chosen: Bools) -> Floats:
    """2 |both| / (|labels| + |chosen|) of each sample [samples]; 1 where both are empty."""
    total = labels.sum(axis=1) + chosen.sum(axis=1)
    return np.where(total == 0, 1.0, 2 * (labels & chosen).sum(axis=1) / np.maximum(total, 1))


def precision(labels: Bools, chosen: Bools) -> Floats:
    """|both| / |chosen| of each sample [samples]; NaN where nothing is chosen."""
    return _divide((labels & chosen).sum(axis=1), chosen.sum(axis=1))


def recall(labels: Bools, chosen: Bools) -> Floats:
    """|both| / |labels| of each sample [samples]; NaN without a label."""
    return precision(chosen, labels)


def num_pairs(chosen: Bools, interacting: Bools) -> tuple[Floats, Floats]:
    """Of each sample's pairs of chosen medications, how many interact, and how many there are; both [samples].

    `interacting` is the symmetric matrix [medications, medications] of `interaction_matrix`.
    """
    together, num_chosen = chosen.astype(np.float32), chosen.sum(axis=1)
    num_interacting = (together @ interacting.astype(np.float32) * together).sum(axis=1)
    return num_interacting / 2, num_chosen * (num_chosen - 1) / 2


def interaction_rate(chosen: Bools, interacting: Bools) -> float | None:
    """Share of the chosen pairs of medications that interact, over all samples together; None where there is none."""
    num_interacting, num_all = (counts.sum(dtype=float) for counts in num_pairs(chosen, interacting))
    return float(num_interacting / num_all) if num_all else None


def best_threshold(labels: Bools, scores: Floats, metric: str) -> float:
    """The threshold of `THRESHOLDS` with the highest mean Jaccard or F1; for validation only (FIELD, defect 10)."""
    measure = {"jaccard": jaccard, "f1": f1}[metric]
    # As Python's numbers, which numpy compares in the scores' own precision, as whoever applies the threshold will.
    thresholds = THRESHOLDS.tolist()
    values = [float(measure(labels, scores >= threshold).mean()) for threshold in thresholds]
    return thresholds[int(np.argmax(values))]


def precision_recall_curve(labels: Bools, scores: Floats, num_points: int = 100) -> tuple[Floats, Floats]:
    """Recall and precision over all samples and medications together [points], by rising recall; none without a label.

    At most `num_points` points of scikit-learn's `precision_recall_curve`, at thresholds that part the labels evenly.
    """
    of_labels, of_all = np.sort(scores[labels]), np.sort(scores, axis=None)
    places = np.linspace(0, len(of_labels) - 1, num=min(num_points, len(of_labels)))
    thresholds = np.unique(of_labels[places.astype(int)])[::-1]
    num_hits = len(of_labels) - np.searchsorted(of_labels, thresholds)
    return num_hits / max(len(of_labels), 1), num_hits / (len(of_all) - np.searchsorted(of_all, thresholds))


def class_results(labels: Bools, scores: Floats, chosen: Bools) -> dict[str, Floats]:
    """`average_precision`, `precision` and `recall` of each medication over the samples [medications]."""
    # One medication at a time: to rank all of them takes memory many times that of the scores.
    pairs = zip(labels.T, scores.T, strict=True)
    return {
        "average_precision": np.concatenate([average_precision(truth[None], score[None]) for truth, score in pairs]),
        "precision": precision(labels.T, chosen.T),
        "recall": recall(labels.T, chosen.T),
    }


def _divide(above: Any, below: Any) -> Floats:
    """Above / below; NaN where both are 0."""
    with np.errstate(invalid="ignore"):
        return above / below

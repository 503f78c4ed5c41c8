"""The paper's metrics, averaged over samples as in the paper. Pure functions of numpy arrays.

Everywhere `labels` is bool [samples, medications], `scores` float and `chosen` bool of the same shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.01), 2)


def average_precision(labels: Bools, scores: Floats) -> Floats:
    """Area under each sample's precision-recall curve [samples], as scikit-learn's `average_precision_score` has it:
    medications of equal score are taken together. NaN for a sample without a label."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(labels, order, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    num_classes = labels.shape[1]
    ends = np.ones_like(hits)
    ends[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    positions = np.where(ends, np.arange(num_classes), num_classes)
    group_end = np.minimum.accumulate(positions[:, ::-1], axis=1)[:, ::-1]  # last rank of each medication's tie
    precision = np.cumsum(hits, axis=1) / np.arange(1, num_classes + 1)
    total = hits.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.take_along_axis(precision, group_end, axis=1) * hits).sum(axis=1) / total


def jaccard(labels: Bools, chosen: Bools) -> Floats:
    """|both| / |either| of each sample [samples]; 1 where both are empty."""
    either = (labels | chosen).sum(axis=1)
    return np.where(either == 0, 1.0, (labels & chosen).sum(axis=1) / np.maximum(either, 1))


def f1(labels: Bools, chosen: Bools) -> Floats:
    """2 |both| / (|labels| + |chosen|) of each sample [samples]; 1 where both are empty."""
    total = labels.sum(axis=1) + chosen.sum(axis=1)
    return np.where(total == 0, 1.0, 2 * (labels & chosen).sum(axis=1) / np.maximum(total, 1))


def interaction_rate(chosen: Bools, interacting: Bools) -> float | None:
    """Share of the chosen pairs of medications that interact, over all samples together; None when no pair is chosen.

    `interacting` is the symmetric matrix [medications, medications] of `interaction_matrix`.
    """
    together = chosen.astype(np.int64)
    counts = together.sum(axis=1)
    num_pairs = int((counts * (counts - 1)).sum())
    num_interacting = int(np.einsum("sm,mn,sn->", together, interacting.astype(np.int64), together, optimize=True))
    return num_interacting / num_pairs if num_pairs else None


def best_threshold(labels: Bools, scores: Floats, metric: str) -> float:
    """The threshold of `THRESHOLDS` with the highest mean Jaccard or F1; for validation only (FIELD, defect 10)."""
    measure = {"jaccard": jaccard, "f1": f1}[metric]
    values = [float(measure(labels, scores >= threshold).mean()) for threshold in THRESHOLDS]
    return float(THRESHOLDS[int(np.argmax(values))])


def report(labels: Bools, scores: Floats, threshold: float, interacting: Bools) -> dict[str, float | int | None]:
    """All metrics of one group of samples, JSON-able; None where a metric has no meaning."""
    if not len(labels):
        return {"samples": 0}
    chosen, labelled = scores >= threshold, labels.any(axis=1)
    return {
        "samples": len(labels),
        "prauc": float(average_precision(labels[labelled], scores[labelled]).mean()) if labelled.any() else None,
        "jaccard": float(jaccard(labels, chosen).mean()),
        "f1": float(f1(labels, chosen).mean()),
        "interaction_rate": interaction_rate(chosen, interacting),
        "medications_per_visit": float(chosen.sum(axis=1).mean()),
    }

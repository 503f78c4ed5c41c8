"""The metrics of a group as functions of sums over its samples, which is what makes a bootstrap of them cheap.

A sample's statistics are float32 columns: a numerator of each of `RATIOS`, a denominator of each; the residuals of the
calibration bins; of each rare class whether it was chosen rightly, and of each whether it was a label.
"""

from __future__ import annotations

import numpy as np

from leader_platform.evaluation.calibration import residuals
from leader_platform.evaluation.cases import Answers, Cases
from leader_platform.evaluation.metrics import Bools, Floats, Ranking, f1, jaccard, num_pairs, precision, recall

MEANS = ("prauc", "jaccard", "f1", "precision", "recall", "auroc")  # over the samples in which one has a meaning
RATIOS = (*MEANS, "interaction_rate", "medications_per_visit")
METRICS = (*RATIOS, "expected_calibration_error", "rare_recall", "rare_coverage")
_BLOCK = 8192  # samples judged at a time; to rank medications takes memory many times that of the scores


def sample_statistics(cases: Cases, answers: Answers, interacting: Bools, num_bins: int) -> Floats:
    """The statistics of every sample, float32 [samples, columns]."""
    assert answers.scores.shape == answers.chosen.shape == cases.labels.shape
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(cases.labels), _BLOCK)]
    return np.concatenate(
        [
            _statistics(
                cases.labels[rows], answers.scores[rows], answers.chosen[rows], interacting, cases.rare, num_bins
            )
            for rows in blocks
        ]
    )


def _statistics(labels: Bools, scores: Floats, chosen: Bools, interacting: Bools, rare: Bools, num_bins: int) -> Floats:
    ranking = Ranking.of(labels, scores)
    agreement = [measure(labels, chosen) for measure in (jaccard, f1, precision, recall)]
    means = np.stack([ranking.average_precision(), *agreement, ranking.auroc()], axis=1)
    num_interacting, num_all = num_pairs(chosen, interacting)
    columns = (
        np.nan_to_num(means),
        np.stack([num_interacting, chosen.sum(axis=1)], axis=1),
        ~np.isnan(means),
        np.stack([num_all, np.ones(len(labels))], axis=1),
        residuals(labels, scores, num_bins),
        (labels & chosen)[:, rare],
        labels[:, rare],
    )
    return np.concatenate(columns, axis=1, dtype=np.float32)


def metrics(sums: Floats, num_bins: int) -> Floats:
    """The values of `METRICS` [..., metrics] from statistics summed over samples [..., columns]; NaN where one has no
    meaning.

    The calibration error is no mean: chance gaps between probability and frequency add to it, in a replicate once more,
    so its interval leans upwards.
    """
    num_ratios = len(RATIOS)
    above, below, residual, rare = np.split(sums, np.cumsum([num_ratios, num_ratios, num_bins]), axis=-1)
    hits, labels = np.split(rare, 2, axis=-1)
    num_samples = below[..., RATIOS.index("medications_per_visit")]
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (
            np.abs(residual).sum(axis=-1) / num_samples,
            hits.sum(axis=-1) / labels.sum(axis=-1),
            (hits > 0).sum(axis=-1) / (labels > 0).sum(axis=-1),
        )
        return np.concatenate([above / below, np.stack(others, axis=-1)], axis=-1)

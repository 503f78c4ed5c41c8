"""The metrics against torchmetrics', on random cases with ties and empty rows. Slow: its import takes seconds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from support.answers import Judged, judged

from leader_platform.evaluation import calibration, metrics

pytestmark = pytest.mark.slow


@given(judged())
def test_rankings_of_each_sample_are_torchmetrics(case: Judged) -> None:
    from torch import from_numpy
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    precisions, aurocs = metrics.average_precision(case.labels, case.scores), metrics.auroc(case.labels, case.scores)
    for index, (labels, scores) in enumerate(zip(case.labels, case.scores, strict=True)):
        given_both = from_numpy(scores), from_numpy(labels).int()
        if labels.any():
            assert precisions[index] == pytest.approx(float(binary_average_precision(*given_both)), abs=1e-6)
        if len(set(labels)) == 2:
            assert aurocs[index] == pytest.approx(float(binary_auroc(*given_both)), abs=1e-6)


@given(judged())
def test_agreement_of_each_sample_is_torchmetrics(case: Judged) -> None:
    from torch import from_numpy
    from torchmetrics.functional import classification

    theirs = {
        "jaccard": classification.binary_jaccard_index,
        "f1": classification.binary_f1_score,
        "precision": classification.binary_precision,
        "recall": classification.binary_recall,
    }
    for name, score in theirs.items():
        found = getattr(metrics, name)(case.labels, case.chosen)
        for index, (labels, chosen) in enumerate(zip(case.labels, case.chosen, strict=True)):
            has_meaning = not np.isnan(found[index]) and (labels | chosen).any()  # else theirs is 0
            expected = float(score(from_numpy(chosen).int(), from_numpy(labels).int())) if has_meaning else 0.0
            assert (found[index] if has_meaning else 0.0) == pytest.approx(expected, abs=1e-6), name


@given(judged())
def test_the_calibration_error_is_torchmetrics(case: Judged) -> None:
    """Of 16 bins, whose edges both find exactly."""
    from torch import from_numpy
    from torchmetrics.functional.classification import binary_calibration_error

    scores = np.minimum(case.scores, np.float32(0.999))  # they give probabilities of 1 a bin of their own
    theirs = binary_calibration_error(from_numpy(scores).ravel(), from_numpy(case.labels).int().ravel(), n_bins=16)
    assert calibration.expected_calibration_error(case.labels, scores, 16) == pytest.approx(float(theirs), abs=1e-6)

"""The metrics against scikit-learn's and against brute force, on random cases with ties."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from support.answers import Judged, judged

from leader_platform.evaluation import metrics


@given(judged())
def test_average_precision_and_auroc_of_each_sample_are_scikit_learns(case: Judged) -> None:
    ranking = metrics.Ranking.of(case.labels, case.scores)
    for index, (labels, scores) in enumerate(zip(case.labels, case.scores, strict=True)):
        precision = sklearn.metrics.average_precision_score(labels, scores) if labels.any() else np.nan
        auroc = sklearn.metrics.roc_auc_score(labels, scores) if len(set(labels)) == 2 else np.nan
        assert ranking.average_precision()[index] == pytest.approx(precision, nan_ok=True)
        assert ranking.auroc()[index] == pytest.approx(auroc, nan_ok=True)


@given(judged())
def test_agreement_of_each_sample_is_scikit_learns(case: Judged) -> None:
    for name, of_two_empty_sets in (("jaccard", 1.0), ("f1", 1.0), ("precision", np.nan), ("recall", np.nan)):
        score = getattr(sklearn.metrics, f"{name}_score")
        expected = [
            score(labels, chosen, zero_division=of_two_empty_sets)
            for labels, chosen in zip(case.labels, case.chosen, strict=True)
        ]
        np.testing.assert_allclose(getattr(metrics, name)(case.labels, case.chosen), expected, err_msg=name)


@given(judged())
def test_interaction_rate_counts_pairs(case: Judged) -> None:
    pairs = [pair for row in case.chosen for pair in combinations(np.flatnonzero(row), 2)]
    expected = sum(case.interacting[pair] for pair in pairs) / len(pairs) if pairs else None
    rate = metrics.interaction_rate(case.chosen, case.interacting)
    assert rate == (None if expected is None else pytest.approx(expected))


@given(judged())
def test_results_of_each_class_are_scikit_learns_over_samples(case: Judged) -> None:
    found = metrics.class_results(case.labels, case.scores, case.chosen)
    for index, (labels, scores, chosen) in enumerate(zip(case.labels.T, case.scores.T, case.chosen.T, strict=True)):
        expected = {
            "average_precision": sklearn.metrics.average_precision_score(labels, scores) if labels.any() else np.nan,
            "precision": sklearn.metrics.precision_score(labels, chosen, zero_division=np.nan),
            "recall": sklearn.metrics.recall_score(labels, chosen, zero_division=np.nan),
        }
        assert {name: values[index] for name, values in found.items()} == pytest.approx(expected, nan_ok=True)


@given(judged())
def test_points_of_the_precision_recall_curve_lie_on_scikit_learns(case: Judged) -> None:
    recall, precision = metrics.precision_recall_curve(case.labels, case.scores, num_points=5)
    if not case.labels.any():
        assert len(recall) == 0
        return
    theirs = sklearn.metrics.precision_recall_curve(case.labels.ravel(), case.scores.ravel())
    curve = np.stack([theirs[1], theirs[0]], axis=1)
    for point in zip(recall, precision, strict=True):
        assert np.isclose(curve, point).all(axis=1).any()
    assert recall[-1] == 1
    assert len(recall) <= 5


def test_a_curve_of_many_labels_keeps_its_shape_in_few_points() -> None:
    draw = np.random.default_rng(0)
    labels = draw.random((200, 40)) < 0.2
    scores = np.clip(draw.normal(0.3, 0.1, labels.shape) + 0.15 * labels, 0, 1)
    recall, precision = metrics.precision_recall_curve(labels, scores)
    assert len(recall) == 100
    assert np.diff(recall).max() < 0.02
    whole = sklearn.metrics.average_precision_score(labels.ravel(), scores.ravel())
    assert np.trapezoid(precision, recall) == pytest.approx(whole, abs=0.01)


def test_average_precision_does_not_depend_on_the_order_of_medications() -> None:
    draw = np.random.default_rng(0)
    labels, scores = draw.random((9, 12)) < 0.4, np.round(draw.random((9, 12)), 1)
    order = draw.permutation(12)
    np.testing.assert_allclose(
        metrics.average_precision(labels[:, order], scores[:, order]), metrics.average_precision(labels, scores)
    )


def test_equal_scores_give_the_share_of_labels() -> None:
    labels = np.array([[True, False, False, False]])
    assert metrics.average_precision(labels, np.full((1, 4), 0.3)) == pytest.approx([0.25])
    assert metrics.auroc(labels, np.full((1, 4), 0.3)) == pytest.approx([0.5])


@pytest.mark.filterwarnings("error")
def test_a_metric_of_a_sample_without_labels_is_not_a_number() -> None:
    labels, scores = np.array([[False, False], [True, False]]), np.array([[0.1, 0.2], [0.9, 0.1]])
    for values in (
        metrics.average_precision(labels, scores),
        metrics.auroc(labels, scores),
        metrics.recall(labels, scores >= 0.5),
        metrics.precision(labels, scores >= 0.5),  # nothing is chosen
    ):
        np.testing.assert_array_equal(values, [np.nan, 1])


def test_two_empty_sets_agree_and_one_empty_set_does_not() -> None:
    labels = np.array([[False, False], [True, False]])
    chosen = np.zeros((2, 2), dtype=bool)
    assert metrics.jaccard(labels, chosen).tolist() == [1.0, 0.0]
    assert metrics.f1(labels, chosen).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("chosen", [[[False, False]], [[True, False], [False, True]]])
def test_there_is_no_interaction_rate_without_a_pair(chosen: list[list[bool]]) -> None:
    assert metrics.interaction_rate(np.array(chosen), np.array([[False, True], [True, False]])) is None


def test_interaction_rate_weighs_pairs_not_visits() -> None:
    interacting = np.zeros((3, 3), dtype=bool)
    interacting[0, 1] = interacting[1, 0] = True
    chosen = np.array([[True, True, True], [True, True, False]])  # one of three pairs, then one of one
    assert metrics.interaction_rate(chosen, interacting) == pytest.approx(2 / 4)


@pytest.mark.parametrize("metric", ["jaccard", "f1"])
def test_the_best_threshold_parts_labels_from_the_rest(metric: str) -> None:
    labels = np.array([[True, False, False], [True, True, False]])
    scores = np.array([[0.62, 0.60, 0.1], [0.9, 0.63, 0.2]])
    assert metrics.best_threshold(labels, scores, metric) == pytest.approx(0.61)


def test_the_lowest_of_equally_good_thresholds_is_taken() -> None:
    assert metrics.best_threshold(np.array([[True, False]]), np.array([[0.9, 0.1]]), "f1") == pytest.approx(0.11)


@given(judged())
def test_no_threshold_beats_the_best(case: Judged) -> None:
    best = metrics.best_threshold(case.labels, case.scores, "jaccard")
    reached = metrics.jaccard(case.labels, case.scores >= best).mean()
    for threshold in metrics.THRESHOLDS.tolist():
        assert metrics.jaccard(case.labels, case.scores >= threshold).mean() <= reached

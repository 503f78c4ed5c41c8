"""The paper's metrics against scikit-learn's and against brute force, on random cases with ties."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from leader_platform import metrics

SEEDS = range(25)


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (at least one a sample), scores with many ties, and a symmetric matrix of interacting pairs."""
    draw = np.random.default_rng(seed)
    samples, classes = int(draw.integers(1, 12)), int(draw.integers(2, 15))
    labels = draw.random((samples, classes)) < draw.random()
    labels[np.arange(samples), draw.integers(0, classes, samples)] = True
    scores = np.round(draw.random((samples, classes)), int(draw.integers(0, 3)))
    upper = np.triu(draw.random((classes, classes)) < 0.3, k=1)
    return labels, scores, upper | upper.T


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_is_scikit_learns(seed: int) -> None:
    labels, scores, _ = case(seed)
    expected = [average_precision_score(truth, score) for truth, score in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(metrics.average_precision(labels, scores), expected, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_jaccard_and_f1_are_scikit_learns(seed: int) -> None:
    labels, scores, _ = case(seed)
    chosen = scores >= 0.5
    pairs = list(zip(labels, chosen, strict=True))
    np.testing.assert_allclose(metrics.jaccard(labels, chosen), [jaccard_score(*pair) for pair in pairs])
    np.testing.assert_allclose(metrics.f1(labels, chosen), [f1_score(*pair) for pair in pairs])


@pytest.mark.parametrize("seed", SEEDS)
def test_interaction_rate_counts_pairs(seed: int) -> None:
    _, scores, interacting = case(seed)
    chosen = scores >= 0.5
    pairs = [pair for row in chosen for pair in combinations(np.flatnonzero(row), 2)]
    expected = sum(interacting[pair] for pair in pairs) / len(pairs) if pairs else None
    assert metrics.interaction_rate(chosen, interacting) == (None if expected is None else pytest.approx(expected))


def test_average_precision_does_not_depend_on_the_order_of_medications() -> None:
    labels, scores, _ = case(3)
    order = np.random.default_rng(0).permutation(labels.shape[1])
    np.testing.assert_allclose(
        metrics.average_precision(labels[:, order], scores[:, order]), metrics.average_precision(labels, scores)
    )


def test_equal_scores_give_the_share_of_labels() -> None:
    labels = np.array([[True, False, False, False]])
    assert metrics.average_precision(labels, np.full((1, 4), 0.3)) == pytest.approx([0.25])


def test_average_precision_of_a_sample_without_labels_is_not_a_number() -> None:
    value = metrics.average_precision(np.array([[False, False], [True, False]]), np.array([[0.1, 0.2], [0.9, 0.1]]))
    assert np.isnan(value[0])
    assert value[1] == 1


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


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_beats_the_best(seed: int) -> None:
    labels, scores, _ = case(seed)
    best = metrics.best_threshold(labels, scores, "jaccard")
    reached = metrics.jaccard(labels, scores >= best).mean()
    assert all(metrics.jaccard(labels, scores >= t).mean() <= reached for t in metrics.THRESHOLDS)


def test_a_report_holds_the_means() -> None:
    labels = np.array([[True, False, False], [True, True, False]])
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1]])
    interacting = np.array([[False, True, False], [True, False, False], [False, False, False]])
    assert metrics.report(labels, scores, 0.5, interacting) == {
        "samples": 2,
        "prauc": 1.0,
        "jaccard": 0.5,
        "f1": pytest.approx(2 / 3),
        "interaction_rate": 1.0,
        "medications_per_visit": 1.5,
    }


def test_a_group_without_samples_says_so() -> None:
    nothing = np.zeros((0, 3), dtype=bool)
    assert metrics.report(nothing, nothing.astype(float), 0.5, np.zeros((3, 3), dtype=bool)) == {"samples": 0}


@pytest.mark.filterwarnings("error")
def test_a_metric_without_meaning_is_null_in_json() -> None:
    nothing = np.zeros((2, 3), dtype=bool)
    report = metrics.report(nothing, nothing.astype(float), 0.5, np.zeros((3, 3), dtype=bool))
    assert report["prauc"] is None
    json.dumps(report, allow_nan=False)

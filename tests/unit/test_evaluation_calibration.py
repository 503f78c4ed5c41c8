"""Calibration bins against brute force and scikit-learn, and the temperature that a model needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from support.answers import Judged, judged

from leader_platform.evaluation import calibration
from leader_platform.features import probabilities

LABELS = np.array([[False, True, False], [True, True, True]])
SCORES = np.array([[0.1, 0.3, 0.5], [0.7, 0.9, 1.0]], dtype=np.float32)


def test_the_calibration_error_is_the_gap_of_each_bin_weighed_by_its_count() -> None:
    # Two bins: 0.1 and 0.3 with one label of two, then 0.5, 0.7, 0.9 and 1.0 with three of four.
    lower, upper = abs(0.2 - 0.5), abs(0.775 - 0.75)
    assert calibration.expected_calibration_error(LABELS, SCORES, 2) == pytest.approx((2 * lower + 4 * upper) / 6)


def test_a_bin_holds_its_lower_edge_and_the_last_one_both() -> None:
    assert calibration.bins_of(np.array([0.0, 0.25, 0.5, 0.99, 1.0]), 4).tolist() == [0, 1, 2, 3, 3]


@pytest.mark.filterwarnings("error")
def test_the_reliability_curve_tells_probability_and_frequency_of_each_bin() -> None:
    probability, frequency, counts = calibration.reliability_curve(LABELS, SCORES, 5)
    np.testing.assert_allclose(probability, [0.1, 0.3, 0.5, 0.7, 0.95], rtol=1e-6)
    np.testing.assert_allclose(frequency, [0, 1, 0, 1, 1])
    assert counts.tolist() == [1, 1, 1, 1, 2]
    assert np.isnan(calibration.reliability_curve(LABELS[:1], SCORES[:1], 5)[0][4])


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_the_reliability_curve_is_scikit_learns(seed: int, num_bins: int) -> None:
    draw = np.random.default_rng(seed)
    labels, scores = draw.random((7, 5)) < 0.4, draw.random((7, 5))
    probability, frequency, counts = calibration.reliability_curve(labels, scores, num_bins)
    theirs = calibration_curve(labels.ravel(), scores.ravel(), n_bins=num_bins)
    np.testing.assert_allclose((frequency[counts > 0], probability[counts > 0]), theirs)


@given(judged(), st.integers(1, 20))
def test_the_calibration_error_follows_from_the_reliability_curve(case: Judged, num_bins: int) -> None:
    probability, frequency, counts = calibration.reliability_curve(case.labels, case.scores, num_bins)
    expected = np.nansum(np.abs(probability - frequency) * counts) / case.labels.size
    found = calibration.expected_calibration_error(case.labels, case.scores, num_bins)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(-1, 3, (4000, 10))
    labels = draw.random(logits.shape) < probabilities(logits / temperature)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_has_bounds_even_where_a_model_is_never_wrong() -> None:
    labels = np.array([[True, False]])
    low, high = calibration.TEMPERATURES
    assert calibration.fit_temperature(np.array([[1.0, -1.0]]), labels) == pytest.approx(low, rel=0.01)
    assert calibration.fit_temperature(np.array([[-1.0, 1.0]]), labels) == pytest.approx(high, rel=0.01)


def test_a_fitted_temperature_lowers_the_calibration_error_of_an_overconfident_model() -> None:
    draw = np.random.default_rng(1)
    logits = draw.normal(-1, 1, (2000, 10))
    labels = draw.random(logits.shape) < probabilities(logits)
    overconfident = probabilities(4 * logits).astype(np.float32)
    temperature = calibration.fit_temperature(calibration.logits_of(overconfident), labels)
    better = calibration.tempered(overconfident, temperature)
    assert better.dtype == np.float32
    assert calibration.expected_calibration_error(labels, overconfident, 15) > 0.1
    assert calibration.expected_calibration_error(labels, better, 15) < 0.02


@given(judged())
def test_temperature_one_changes_nothing_and_none_reorders(case: Judged) -> None:
    np.testing.assert_allclose(calibration.tempered(case.scores, 1.0), case.scores, atol=2e-7)
    order = np.argsort(case.scores, axis=1)
    cooler = np.take_along_axis(calibration.tempered(case.scores, 0.7), order, axis=1)
    assert (np.diff(cooler, axis=1) >= 0).all()


@pytest.mark.filterwarnings("error")
def test_probabilities_of_zero_and_one_have_finite_logits() -> None:
    assert np.isfinite(calibration.logits_of(np.array([0.0, 1.0], dtype=np.float32))).all()

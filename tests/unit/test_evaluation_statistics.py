"""The bootstrap by patient against a plain loop over drawn patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.evaluation import statistics
from leader_platform.evaluation.statistics import Estimate, bootstrap, draw_patients, membership


def ratio(sums: np.ndarray) -> np.ndarray:
    """One metric of two columns: numerator and denominator."""
    with np.errstate(invalid="ignore"):
        return sums[..., :1] / sums[..., 1:]


@given(st.integers(0, 1000), st.integers(1, 12))
def test_the_bootstrap_is_a_loop_that_draws_patients_with_all_their_samples(seed: int, num_patients: int) -> None:
    draw = np.random.default_rng(seed)
    patients = np.concatenate([np.arange(num_patients), draw.integers(num_patients, size=9)])
    samples = draw.random((len(patients), 2), dtype=np.float32)
    [estimate] = bootstrap([membership(patients, np.ones(len(patients), bool)) @ samples], ratio, 20, seed)

    generator = np.random.default_rng(seed)
    for replicate in estimate.replicates:
        drawn = generator.integers(num_patients, size=num_patients)
        above, below = np.concatenate([samples[patients == patient] for patient in drawn]).sum(axis=0, dtype=float)
        assert replicate == pytest.approx([above / below], rel=1e-5)
    assert estimate.values == pytest.approx(samples[:, 0].sum() / samples[:, 1].sum())


def test_sums_by_patient_are_of_the_group_alone() -> None:
    patients, rows = np.array([2, 0, 2, 1]), np.array([True, False, True, True])
    sums = membership(patients, rows) @ np.array([[1.0], [10.0], [100.0], [1000.0]])
    assert sums.tolist() == [[1000.0], [101.0]]


def test_an_interval_is_the_value_and_two_percentiles_and_not_the_replicates_mean() -> None:
    estimate = Estimate(np.array([0.9]), np.linspace(0, 1, 1001)[:, None])
    assert estimate.intervals() == [[0.9, pytest.approx(0.025), pytest.approx(0.975)]]


@pytest.mark.filterwarnings("error")
def test_what_has_no_meaning_has_no_interval() -> None:
    replicates = np.array([[np.nan, np.nan], [np.nan, 0.2], [np.nan, 0.2]])
    assert Estimate(np.array([np.nan, 0.2]), replicates).intervals() == [None, [0.2, 0.2, 0.2]]


def test_rounding_leaves_no_negative_zero() -> None:
    assert str(Estimate(np.array([-1e-9]), np.full((3, 1), -1e-9)).intervals()) == "[[0.0, 0.0, 0.0]]"


def test_the_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(size=400)
    sums = np.stack([values, np.ones(400)], axis=1).astype(np.float32)
    [[value, low, high]] = bootstrap([sums], ratio, 2000, 0)[0].intervals()
    error = 1.96 * values.std() / 20
    assert (value, low, high) == pytest.approx((values.mean(), values.mean() - error, values.mean() + error), abs=0.01)


def test_models_are_judged_on_the_same_draws() -> None:
    draw = np.random.default_rng(0)
    worse = np.stack([draw.random(50), np.ones(50)], axis=1).astype(np.float32)
    better = worse + np.array([0.25, 0], dtype=np.float32)  # by as much for every patient
    first, second = bootstrap([better, worse], ratio, 100, 0)
    assert (first - second).intervals() == [pytest.approx([0.25, 0.25, 0.25], abs=1e-6)]


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = draw_patients(7, 10, seed=3)
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 3 * 7 * 4)
    chunks = list(draw_patients(7, 10, seed=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert (whole.sum(axis=1) == 7).all()
    assert not np.array_equal(next(draw_patients(7, 10, seed=4)), whole[:3])


def test_seeds_are_averaged_replicate_by_replicate() -> None:
    first = Estimate(np.array([0.2]), np.array([[0.1], [0.3]]))
    second = Estimate(np.array([0.4]), np.array([[0.5], [0.3]]))
    found = Estimate.mean([first, second])
    assert found.values == pytest.approx([0.3])
    np.testing.assert_allclose(found.replicates, [[0.3], [0.3]])

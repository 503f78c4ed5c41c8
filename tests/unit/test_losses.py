"""The student's losses against their formulas in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from leader_platform.models.losses import alignment_loss, distillation_loss, recommendation_loss


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_recommendation_is_binary_cross_entropy_over_samples_and_medications() -> None:
    logits, labels = normal(5, 7), (normal(5, 7, seed=1) > 0).double()
    p, y = 1 / (1 + np.exp(-logits.numpy())), labels.numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert recommendation_loss(logits, labels).item() == pytest.approx(expected)


def test_recommendation_is_finite_for_certain_mistakes() -> None:
    loss = recommendation_loss(torch.tensor([[200.0, -200.0]]), torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx(200)


def test_distillation_is_the_mean_squared_error() -> None:
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    assert distillation_loss(student, teacher).item() == pytest.approx(((student - teacher).numpy() ** 2).mean())


def test_distillation_is_zero_only_where_both_are_equal() -> None:
    state = normal(4, 6)
    assert distillation_loss(state, state.clone()).item() == 0
    changed = state.clone()
    changed[3, 5] += 1e-3
    assert distillation_loss(changed, state).item() > 0


def alignment_by_hand(profile: np.ndarray, medications: np.ndarray, temperature: float) -> float:
    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similarity = unit(profile) @ unit(medications).T / temperature
    losses = []
    for matrix in (similarity, similarity.T):
        shares = np.exp(matrix) / np.exp(matrix).sum(axis=1, keepdims=True)
        losses.append(-np.log(np.diag(shares)).mean())
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("batch", [2, 5])
def test_alignment_is_the_symmetric_contrastive_loss(batch: int, temperature: float) -> None:
    profile, medications = normal(batch, 6), normal(batch, 6, seed=1)
    expected = alignment_by_hand(profile.numpy(), medications.numpy(), temperature)
    assert alignment_loss(profile, medications, temperature).item() == pytest.approx(expected)
    assert alignment_loss(medications, profile, temperature).item() == pytest.approx(expected)


def test_alignment_of_a_batch_of_one_is_zero() -> None:
    """The published code fails there (FIELD, defect 4)."""
    assert alignment_loss(normal(1, 6), normal(1, 6, seed=1), 1.0).item() == 0


def test_alignment_looks_at_directions_alone() -> None:
    profile, medications = normal(4, 6), normal(4, 6, seed=1)
    assert alignment_loss(profile * 7, medications * 0.1, 1.0).item() == pytest.approx(
        alignment_loss(profile, medications, 1.0).item()
    )


def test_alignment_rewards_the_right_partner() -> None:
    profile = torch.eye(4)
    right, wrong = alignment_loss(profile, profile, 0.1), alignment_loss(profile, profile.roll(1, 0), 0.1)
    assert right.item() < 0.01 < math.log(4) < wrong.item()


def test_alignment_of_a_vector_of_zeros_is_finite() -> None:
    profile = normal(3, 6).requires_grad_()
    loss = alignment_loss(profile, torch.zeros(3, 6, dtype=torch.float64), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert profile.grad is not None
    assert torch.isfinite(profile.grad).all()

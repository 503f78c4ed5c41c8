"""The teacher's own parts, around a backbone that is a stand-in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from leader_platform.models.teacher import (
    HEAD_FILE,
    MedicationHead,
    Teacher,
    load_head,
    multi_hot,
    pad_tokens,
    pooled_states,
)


class PositionBackbone(nn.Module):
    """A state at each position that tells the token and the position."""

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        return SimpleNamespace(last_hidden_state=torch.stack([input_ids, positions], dim=-1).to(torch.bfloat16))


def test_tokens_are_padded_on_the_right_as_far_as_needed() -> None:
    tokens, mask = pad_tokens([[5, 6, 7], [8], [9, 9]], padding_id=2)
    assert tokens.tolist() == [[5, 6, 7], [8, 2, 2], [9, 9, 2]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def test_the_state_is_that_of_the_last_real_token() -> None:
    tokens, mask = pad_tokens([[5, 6, 7], [8], [9, 4]], padding_id=2)
    assert pooled_states(PositionBackbone(), tokens, mask).tolist() == [[7, 2], [8, 0], [4, 1]]


def test_the_mean_state_is_that_of_the_real_tokens() -> None:
    tokens, mask = pad_tokens([[5, 6, 7], [8], [9, 4]], padding_id=2)
    assert pooled_states(PositionBackbone(), tokens, mask, "mean").tolist() == [[6, 1], [8, 0], [6.5, 0.5]]


def test_a_padding_token_inside_a_prompt_is_a_token() -> None:
    tokens, mask = pad_tokens([[5, 2, 2], [8]], padding_id=2)
    assert pooled_states(PositionBackbone(), tokens, mask).tolist() == [[2, 2], [8, 0]]


def test_the_teacher_answers_in_the_heads_precision() -> None:
    head = MedicationHead(2, 3)
    states, logits = Teacher(PositionBackbone(), head)(*pad_tokens([[5, 6], [8]], padding_id=0))
    assert states.tolist() == [[6, 1], [8, 0]]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.tensor([[6.0, 1], [8, 0]]) @ head.weight.T + head.bias)


def test_labels_become_targets() -> None:
    assert multi_hot([[0, 2], [], [1, 1]], 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_a_head_with_prior_begins_as_popularity_whatever_the_state() -> None:
    frequency = torch.tensor([0.1, 0.5, 0.93])
    head = MedicationHead.with_prior(4, frequency)
    probabilities = torch.sigmoid(head(torch.randn(6, 4)))
    torch.testing.assert_close(probabilities, frequency.expand(6, 3))


def test_a_prior_of_never_or_always_stays_finite() -> None:
    head = MedicationHead.with_prior(4, torch.tensor([0.0, 1.0]))
    assert torch.isfinite(head.bias).all()
    assert torch.sigmoid(head.bias).tolist() == pytest.approx([1e-4, 1 - 1e-4])


@pytest.mark.parametrize("bias", [True, False])
def test_a_saved_head_is_read_back(tmp_path: Path, bias: bool) -> None:
    head = MedicationHead(4, 3, bias=bias)
    save_file(head.state_dict(), str(tmp_path / HEAD_FILE))
    again = load_head(str(tmp_path))
    states = torch.randn(2, 4)
    torch.testing.assert_close(again(states), head(states))
    assert (again.bias is not None) == bias
    assert not any(parameter.requires_grad for parameter in again.parameters())

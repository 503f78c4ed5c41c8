"""Several workers of a teacher's training against one that has all their rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.rows import row
from support.workers import resume_by_two, small_teacher, tune, tune_by_two

from leader_platform.config import TeacherConfig

# Of unlike lengths, so that the workers would cut their rows into unlike numbers of passes.
ROWS = [[row(0, 60, (0,)), row(1, 50, (0, 2)), row(2, 40)], [row(3, 9, (1,)), row(4, 3, (0, 1)), row(5, 4, (2,))]]


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_workers_take_the_steps_that_one_takes_on_all_rows(tmp_path: Path, sharded: bool) -> None:
    """Sharded, layers are gathered again where checkpointing computes them again."""
    config = TeacherConfig(micro_batch_tokens=64, learning_rate=0.01, gradient_checkpointing=sharded)
    two = config.model_copy(update={"num_workers": 2, "shard_backbone": sharded})
    first, second = tune_by_two(two, ROWS, tmp_path)
    alone = tune(small_teacher(config), config, [*ROWS[0], *ROWS[1]])
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], weight, atol=1e-4, rtol=1e-3)
    losses = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert losses == pytest.approx(alone["losses"], rel=1e-4)
    assert losses[2] < losses[0]
    assert first["prauc"] == second["prauc"] == pytest.approx(alone["prauc"])
    # What comes before and after the layers is kept whole once it was gathered.
    assert first["held"] == pytest.approx(0.5 if sharded else 1.0, abs=0.03)


@pytest.mark.slow
def test_a_checkpoint_is_resumed_with_and_without_a_shared_backbone(tmp_path: Path) -> None:
    """And with other settings of memory: those that the out-of-memory sentence names."""
    large = TeacherConfig(micro_batch_tokens=256, learning_rate=0.01, num_workers=2)
    small = large.model_copy(update={"shard_backbone": True, "gradient_checkpointing": True, "micro_batch_tokens": 64})
    first, second = resume_by_two([[large, small, large], [large, large, large]], ROWS, tmp_path)
    changed, same = first
    for name, weight in same.items():
        assert torch.equal(changed[name], second[0][name]), name
        torch.testing.assert_close(changed[name], weight, atol=1e-4, rtol=1e-3)

"""The student's stage when a worker is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.kills import kill_at

from leader_jobs import pipeline
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import UserError
from leader_platform.progress import SILENT
from leader_platform.settings import load_config

pytestmark = pytest.mark.slow


def test_a_full_disk_is_told_in_a_sentence(data: PreparedData, config: LeaderConfig, small_disk: Path) -> None:
    """Met by a worker, when it writes its first checkpoint."""
    with pytest.raises(UserError, match=f"There is no room left for {small_disk}/run, or for temporary files"):
        pipeline.train("student", data, Run(str(small_disk / "run")), config, SILENT)
    assert not (small_disk / "run/student_alone").exists()


def test_a_killed_worker_changes_nothing(data: PreparedData, config: LeaderConfig, tmp_path: Path) -> None:
    """A worker killed between checkpoints goes on from the last one and ends with an undisturbed run's weights."""
    settings = ["student.max_epochs=24", "student.patience=24", "student.checkpoint_epochs=4", "student.batch_size=4"]
    long = load_config(config, None, settings)
    undisturbed, disturbed = Run(str(tmp_path / "a")), Run(str(tmp_path / "b"))
    pipeline.train("student", data, undisturbed, long, SILENT)
    kill_once, kills = kill_at("epoch 10")
    pipeline.train("student", data, disturbed, long, kill_once)
    assert len(kills) == 1
    epochs = [line["epoch"] for line in disturbed.manifest("student_alone")["training"]]
    assert epochs[-1] == 24
    assert epochs.count(10) == 2 or epochs.count(9) == 2, f"no epoch was done again: {epochs}"
    expected, actual = (load_file(run.path("student_alone", "model.safetensors")) for run in (undisturbed, disturbed))
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, atol=1e-6, rtol=0)

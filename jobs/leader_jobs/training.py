"""What the two training stages share: how Ray Train is started, resumed and read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import RunError, UserError

if TYPE_CHECKING:
    from ray.train import Checkpoint

DATASET_FILES = ("vocabulary.json", "titles.parquet", "interactions.parquet")


def copy_dataset_files(data: PreparedData, directory: str, names: tuple[str, ...]) -> None:
    """Put what a model needs to be understood beside its weights."""
    for name in names:
        storage.write_bytes(storage.join(directory, name), storage.read_bytes(storage.join(data.uri, name)))


def seed_everything(seed: int) -> None:
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def require_finite(loss: float, model: str, step: int) -> float:
    """The loss, or a `UserError` that says what to change when training has diverged."""
    if not math.isfinite(loss):
        raise UserError(f"The {model}'s loss became {loss} at step {step}; lower {model}.learning_rate and start again.")
    return loss


def run_trainer(
    worker: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    datasets: dict[str, Any],
    directory: str,
    config: LeaderConfig,
    num_workers: int,
    resume: bool,
) -> tuple[Checkpoint, dict[str, Any]]:
    """Run `worker` under Ray Train with its checkpoints in `directory`; the last checkpoint and its metrics.

    Without `resume` what an interrupted run left there is removed first, since Ray Train would silently go on from it.
    """
    import torch
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if not resume:
        storage.remove(directory)
    parent, name = directory.rsplit("/", 1)
    resources = config.resources
    use_gpu = resources.gpus_per_worker > 0
    per_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": resources.gpus_per_worker} if use_gpu else {})
    num_threads = max(1, int(resources.cpus_per_worker))

    def loop(arguments: dict[str, Any]) -> None:
        torch.set_num_threads(num_threads)
        worker(arguments)

    trainer = TorchTrainer(
        loop,
        train_loop_config=arguments,
        datasets=datasets,
        dataset_config=DataConfig(datasets_to_split=["train"]),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=per_worker),
        run_config=RunConfig(
            name=name,
            storage_path=parent,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=1),
        ),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise RunError(f"Training in {directory} ended without a checkpoint; its log names the cause.")
    return result.checkpoint, dict(result.metrics or {})

"""Two workers of a teacher's training, as processes that talk over loopback; no Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from support.rows import row
from support.small_llama import small_llama
from torch.multiprocessing import spawn

from leader_jobs.teacher_checkpoint import Tuning, copied, trainable
from leader_jobs.teacher_steps import Row, gradient_scaler, optimizer_and_schedule, train_step, validation_prauc
from leader_jobs.teacher_workers import shard_backbone
from leader_platform.config import TeacherConfig
from leader_platform.models.teacher import MedicationHead, Teacher, with_adapter


def small_teacher(config: TeacherConfig) -> Teacher:
    from transformers import LlamaModel

    decoder = LlamaModel(small_llama(vocab_size=20))
    causal_lm: Any = SimpleNamespace(get_decoder=lambda: decoder)
    return Teacher(with_adapter(causal_lm, config), MedicationHead(32, 3)).train()


VALIDATION = [row(6, 5, (0,)), row(7, 70, (1, 2))]  # the same for every worker, as in a training


def tune(model: Teacher, config: TeacherConfig, rows: list[Row]) -> dict[str, Any]:
    """Three steps on the same rows, and what they led to."""
    optimizer, _ = optimizer_and_schedule(model, config, 10)
    losses = [train_step(model, rows, 0, optimizer, None, config)[0] for _ in range(3)]
    return {"losses": losses, "prauc": validation_prauc(model, VALIDATION, 0, 64), "weights": copied(trainable(model))}


def resume_by_two(chains: list[list[TeacherConfig]], rows: list[list[Row]], folder: Path) -> list[list[dict[str, Any]]]:
    """Of each of two workers, the weights that each chain led to: a step under each of its configurations, and a
    checkpoint in between."""
    spawn(_resume, (chains, rows, str(folder)), nprocs=len(rows))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(rows))]


def _resume(rank: int, chains: list[list[TeacherConfig]], rows: list[list[Row]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(rows))
    reached = [_take_steps(chain, rows[rank], Path(folder, f"chain-{number}")) for number, chain in enumerate(chains)]
    torch.save(reached, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _take_steps(chain: list[TeacherConfig], rows: list[Row], checkpoint: Path) -> dict[str, torch.Tensor]:
    for number, config in enumerate(chain):
        model = small_teacher(config)
        if config.shard_backbone:
            shard_backbone(model, torch.device("cpu"))
        tuning = Tuning(
            model, *optimizer_and_schedule(model, config, 10), gradient_scaler("float32", torch.device("cpu"))
        )
        if number:
            tuning.restore(checkpoint)
        train_step(model, rows, 0, tuning.optimizer, None, config)
        tuning.scheduler.step()
        if dist.get_rank() == 0:
            checkpoint.mkdir(exist_ok=True)
            tuning.save(checkpoint)
        dist.barrier()
    return copied(trainable(model))


def tune_by_two(config: TeacherConfig, rows: list[list[Row]], folder: Path) -> list[dict[str, Any]]:
    """What each of two workers reached, each on its rows; `held` is the share of the backbone that it kept."""
    spawn(_work, (config, rows, str(folder)), nprocs=len(rows))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(rows))]


def _work(rank: int, config: TeacherConfig, rows: list[list[Row]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(rows))
    model = small_teacher(config)
    if config.shard_backbone:
        shard_backbone(model, torch.device("cpu"))
    told = tune(model, config, rows[rank])
    frozen = [weight for weight in model.backbone.parameters() if not weight.requires_grad]
    held = sum(getattr(weight, "_local_tensor", weight).numel() for weight in frozen)
    torch.save({**told, "held": held / sum(weight.numel() for weight in frozen)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()

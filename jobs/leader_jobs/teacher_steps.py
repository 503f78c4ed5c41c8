"""The teacher's optimiser steps: in what order samples come, how a step is cut to fit, taken and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from leader_jobs.teacher_workers import average_gradients, most
from leader_platform.config import TeacherConfig
from leader_platform.evaluation.metrics import average_precision
from leader_platform.features import probabilities
from leader_platform.models.teacher import Teacher, multi_hot, pad_tokens

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Row = dict[str, Any]  # a tokenised sample: sample_id, token_ids, label_indices, previous_indices


@dataclass
class Place:
    """Where the training stands: steps done in all, the epoch, the steps done of it, and the best validation so far."""

    step: int = 0
    epoch: int = 0
    of_epoch: int = 0
    best_step: int = 0
    best_prauc: float = -1.0

    def judge(self, prauc: float) -> bool:
        """Note a validation of the weights as they are now; whether they are the best so far."""
        better = prauc > self.best_prauc
        if better:
            self.best_step, self.best_prauc = self.step, prauc
        return better

    def out_of_patience(self, config: TeacherConfig) -> bool:
        """Whether as many validations as `patience` have passed since the best one."""
        if config.evaluate_steps is None or self.best_prauc < 0:
            return False
        return self.step - self.best_step >= config.patience * config.evaluate_steps


def steps(shard: Any, config: TeacherConfig, place: Place, total_steps: int) -> Iterator[list[Row]]:
    """The rows of each step from `place` on, which is kept up to date, as long as there is patience."""
    while place.step < total_steps and not place.out_of_patience(config):
        for number, rows in enumerate(_steps_of_epoch(shard, config, place.epoch)):
            if number < place.of_epoch:  # done before the interruption
                continue
            place.step, place.of_epoch = place.step + 1, number + 1
            yield rows
            if place.step == total_steps or place.out_of_patience(config):
                return
        place.epoch, place.of_epoch = place.epoch + 1, 0


def _steps_of_epoch(shard: Any, config: TeacherConfig, epoch: int) -> Iterator[list[Row]]:
    """An epoch's steps. Rows come in windows; a window is sorted by length and cut into batches, whose order is
    shuffled: little padding, and the same order for the same seed and epoch."""
    generator = np.random.default_rng([config.seed, epoch])
    window_size = config.batch_size * config.bucket_batches
    pending: list[list[Row]] = []
    for window in shard.iter_batches(batch_size=window_size, batch_format="pyarrow", prefetch_batches=1):
        rows = sorted(window.to_pylist(), key=lambda row: (len(row["token_ids"]), row["sample_id"]))
        batches = [rows[at : at + config.batch_size] for at in range(0, len(rows), config.batch_size)]
        for index in generator.permutation(len(batches)):
            pending.append(batches[index])
            if len(pending) == config.gradient_accumulation:
                yield [row for batch in pending for row in batch]
                pending = []
    if pending:
        yield [row for batch in pending for row in batch]


def micro_batches(rows: Sequence[Row], max_tokens: int, at_least: int = 1) -> list[list[Row]]:
    """The rows by length, in runs that hold at most `max_tokens` with their padding; a longer row stands alone.

    Short prompts go many at once, so that every pass has work enough for all cores; long ones fit in memory. There are
    `at_least` so many runs, of which there cannot be more than rows.
    """
    runs: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row["token_ids"])):
        if runs and (len(runs[-1]) + 1) * len(row["token_ids"]) <= max_tokens:
            runs[-1].append(row)
        else:
            runs.append([row])
    while len(runs) < min(at_least, len(rows)):
        longest = max(runs, key=len)
        at = runs.index(longest)
        runs[at : at + 1] = [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
    return runs


def optimizer_and_schedule(model: Teacher, config: TeacherConfig, total_steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW over adapter and head, each at its rate, with linear warm-up and then linear decay to zero."""
    adapter = [weight for weight in model.backbone.parameters() if weight.requires_grad]
    groups = [
        {"params": adapter, "lr": config.learning_rate},
        {"params": list(model.head.parameters()), "lr": config.head_rate},
    ]
    # One fused pass: an adapter is hundreds of small tensors, each worth several calls otherwise.
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    warmup = max(1, round(config.warmup_fraction * total_steps))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (total_steps - step) / max(1, total_steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def gradient_scaler(dtype: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss of a float16 backbone, whose small gradients would become zero; does nothing in other formats.

    Begins at 2**12, since a loss that is a mean over medications leaves room there; a step that overflows is left out.
    """
    return torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=dtype == "float16")


def label_weights(class_frequency: Tensor, config: TeacherConfig, device: torch.device | str) -> Tensor | None:
    """How much more a label weighs than its absence [medications]; a class without a positive gets the cap."""
    if config.class_weighting == "none":
        return None
    return ((1 - class_frequency) / class_frequency.clamp(min=1e-6)).clamp(1.0, config.class_weight_cap).to(device)


def train_step(
    model: Teacher,
    rows: Sequence[Row],
    padding_id: int,
    optimizer: Optimizer,
    weights: Tensor | None,
    config: TeacherConfig,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[float, int]:
    """One optimiser step on `rows`, however they are cut; returns the mean loss and the number of real tokens.

    Several workers take it together, each on as many rows. `weights` are those of `label_weights`, `scaler` is that of
    `gradient_scaler`.
    """
    scaler = scaler or gradient_scaler("float32", model.head.weight.device)
    total, num_tokens = 0.0, 0
    for batch in _cut(model, rows, config):
        labels = multi_hot([row["label_indices"] for row in batch], model.head.out_features)
        logits = _logits(model, batch, padding_id)
        loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.device), pos_weight=weights)
        scaler.scale(loss * len(batch) / len(rows)).backward()
        total += loss.item() * len(batch) / len(rows)
        num_tokens += sum(len(row["token_ids"]) for row in batch)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    average_gradients(trained)
    scaler.unscale_(optimizer)
    if config.max_gradient_norm is not None:
        torch.nn.utils.clip_grad_norm_(trained, config.max_gradient_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total, num_tokens


def _cut(model: Teacher, rows: Sequence[Row], config: TeacherConfig) -> list[list[Row]]:
    """A step's rows as they pass the model; workers that share a backbone must all take the same number of passes."""
    batches = micro_batches(rows, config.micro_batch_tokens)
    if not config.shard_backbone:
        return batches
    return micro_batches(rows, config.micro_batch_tokens, at_least=most(len(batches), model.head.weight.device))


def _logits(model: Teacher, batch: Sequence[Row], padding_id: int) -> Tensor:
    """Logits float32 [rows, medications]."""
    device = model.head.weight.device
    tokens, mask = pad_tokens([row["token_ids"] for row in batch], padding_id)
    given = multi_hot([row["previous_indices"] for row in batch], model.head.out_features) > 0
    logits: Tensor = model(tokens.to(device), mask.to(device), given.to(device))[1]
    return logits.float()


@torch.no_grad()
def validation_prauc(
    model: Teacher,
    rows: Sequence[Row],
    padding_id: int,
    max_tokens: int,
    on_batch: Callable[[int], None] = lambda number: None,
) -> float:
    """PRAUC averaged over samples; those without a label say nothing and are left out. `on_batch` gets the size of each
    batch that is done."""
    model.eval()
    scores, labels = [], []
    for batch in micro_batches(rows, max_tokens):
        scores.append(_logits(model, batch, padding_id).cpu())
        labels.append(multi_hot([row["label_indices"] for row in batch], model.head.out_features))
        on_batch(len(batch))
    model.train()
    each = average_precision(torch.cat(labels).numpy().astype(bool), probabilities(torch.cat(scores).numpy()))
    return float(np.nanmean(each))

"""Stage `teacher`: tune a language model with LoRA and a medication head, and export what the other stages load.

    samples --Ray Data: fit, tokenise--> tokens --Ray Train: bucket, step--> checkpoint --export--> teacher/

The export holds `adapter/` (peft), `head.safetensors`, `merged/` (model and tokenizer, for vLLM and transformers) and
the data set's vocabulary, titles and interactions, so that serving needs nothing else.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader_jobs.tokens import SAMPLE_COLUMNS, Tokenise
from leader_jobs.training import (
    DATASET_FILES,
    class_frequency,
    copy_dataset_files,
    data_facts,
    require_finite,
    run_trainer,
    seed_everything,
    tell,
)
from leader_platform import storage
from leader_platform.artifacts import TEACHER, Run
from leader_platform.config import LeaderConfig, TeacherConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.models.backbone import load_causal_lm, load_tokenizer

TRAINABLE_FILE = "trainable.safetensors"

if TYPE_CHECKING:
    import torch
    from ray.train import Checkpoint

    from leader_platform.models.teacher import Teacher


def train_teacher(
    data: PreparedData, run: Run, config: LeaderConfig, key: str, resume: bool, say: Callable[[str], None]
) -> None:
    """Tune the teacher on the training split and write `teacher/`. Runs on the Ray that is connected."""
    import ray

    parts = data.sample_parts("train")
    num_samples = data.manifest["splits"]["train"]["samples"]
    total_steps = _total_steps(config.teacher, num_samples)
    say(f"Tuning {config.teacher.backbone} with LoRA: {total_steps} steps on {num_samples} samples")
    arguments = {"data": data.uri, "config": config.model_dump(mode="json"), "total_steps": total_steps}
    tokens = ray.data.read_parquet(parts, columns=SAMPLE_COLUMNS).map_batches(
        Tokenise,
        fn_constructor_args=(data.uri, config.teacher.backbone, config.prompt),
        batch_format="pyarrow",
        batch_size=256,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    # Tokenised once and kept in the object store (which spills to disk): epochs read the same tokens again.
    tokens = tokens.materialize()
    checkpoint, history = run_trainer(
        _worker,
        arguments,
        {"train": tokens},
        run.scratch(TEACHER, key),
        config,
        config.teacher.num_workers,
        resume,
        say,
    )
    say("Exporting the adapter, the head and the merged model")
    about = {"backbone": config.teacher.backbone, "training": history, **data_facts(data)}
    with run.product(TEACHER, key, config, about) as directory:
        # In a process of its own that ends with it: this one lives on through the later stages.
        export = ray.remote(num_cpus=1, max_calls=1)(_export)
        ray.get(export.remote(checkpoint, directory, config.teacher, len(data.vocabulary.medications)))
        copy_dataset_files(data, directory, DATASET_FILES)
    storage.remove(run.scratch(TEACHER, key))


def _total_steps(config: TeacherConfig, num_samples: int) -> int:
    samples_a_step = config.batch_size * config.gradient_accumulation * config.num_workers
    steps = config.max_epochs * math.ceil(num_samples / samples_a_step)
    return steps if config.max_steps is None else min(steps, config.max_steps)


# --- in the Ray Train worker -----------------------------------------------------------------------------------------


def _worker(arguments: dict[str, Any]) -> None:
    """The training loop of one worker, top to bottom."""
    from ray import train

    config = LeaderConfig.model_validate(arguments["config"])
    teacher, total_steps = config.teacher, arguments["total_steps"]
    rank = train.get_context().get_world_rank()
    seed_everything(teacher.seed)  # the same adapter and head in every worker
    device = train.torch.get_device()
    model = _build(config, PreparedData(arguments["data"])).to(device)  # before the optimizer's state is restored to it
    optimizer, scheduler = _optimizer(model, teacher, total_steps)
    place = _restore(model, optimizer, scheduler)
    trained = train.torch.prepare_model(model).train()  # `from_pretrained` leaves models in evaluation mode
    padding_id = load_tokenizer(teacher.backbone).pad_token_id
    losses: list[float] = []
    num_tokens, started = 0, time.monotonic()
    for step, batches in _steps(train.get_dataset_shard("train"), teacher, place, total_steps):
        seed_everything(teacher.seed, rank, step)  # so that a resumed run draws the dropout an undisturbed one does
        loss, tokens = _train_step(trained, batches, padding_id, device, optimizer, teacher)
        scheduler.step()
        losses.append(require_finite(loss, "teacher", step))
        num_tokens += tokens
        if step % teacher.log_steps == 0 or step == total_steps:
            rate = num_tokens / (time.monotonic() - started)
            tell(arguments, {"step": step, "loss": sum(losses) / len(losses), "tokens_per_second": rate})
            losses.clear()
        if step % teacher.checkpoint_steps == 0 or step == total_steps:
            with tempfile.TemporaryDirectory() as folder:
                train.report({"loss": loss}, checkpoint=_checkpoint(Path(folder), model, optimizer, scheduler, place))


@dataclass
class _Place:
    """Where in the data the training stands: steps done in all, the epoch, and the steps done of that epoch."""

    step: int = 0
    epoch: int = 0
    of_epoch: int = 0


def _steps(shard: Any, config: TeacherConfig, place: _Place, total_steps: int) -> Iterator[tuple[int, list[Any]]]:
    """Numbered steps, each with its accumulated batches, from `place` on, which is kept up to date."""
    while place.step < total_steps:
        for number, batches in enumerate(_accumulated_batches(shard, config, place.epoch)):
            if number < place.of_epoch:  # done before the interruption
                continue
            place.step, place.of_epoch = place.step + 1, number + 1
            yield place.step, batches
            if place.step == total_steps:
                return
        place.epoch, place.of_epoch = place.epoch + 1, 0


def _build(config: LeaderConfig, data: PreparedData) -> Teacher:
    import torch

    from leader_platform.models.teacher import MedicationHead, Teacher, with_adapter

    causal_lm = load_causal_lm(config.teacher.backbone, getattr(torch, config.teacher.dtype))
    hidden_size = causal_lm.config.hidden_size
    num_classes = len(data.vocabulary.medications)
    if config.teacher.head_prior_bias:
        head = MedicationHead.with_prior(hidden_size, class_frequency(data))
    else:
        head = MedicationHead(hidden_size, num_classes, bias=False, dtype=torch.float32)
    return Teacher(with_adapter(causal_lm, config.teacher), head)


def _optimizer(model: Teacher, config: TeacherConfig, total_steps: int) -> tuple[Any, Any]:
    import torch

    adapter = [weight for weight in model.backbone.parameters() if weight.requires_grad]
    groups = [
        {"params": adapter, "lr": config.learning_rate},
        {"params": list(model.head.parameters()), "lr": config.head_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    warmup = max(1, round(config.warmup_fraction * total_steps))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (total_steps - step) / max(1, total_steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _accumulated_batches(shard: Any, config: TeacherConfig, epoch: int) -> Iterator[list[list[dict[str, Any]]]]:
    """An epoch's steps, each a list of batches. Rows come in windows; a window is sorted by length and cut into
    batches, whose order is shuffled: little padding, and the same order for the same seed and epoch."""
    import numpy as np

    generator = np.random.default_rng([config.seed, epoch])
    window_size = config.batch_size * config.bucket_batches
    pending: list[list[dict[str, Any]]] = []
    for window in shard.iter_batches(batch_size=window_size, batch_format="pyarrow", prefetch_batches=1):
        rows = sorted(window.to_pylist(), key=lambda row: (len(row["token_ids"]), row["sample_id"]))
        batches = [rows[at : at + config.batch_size] for at in range(0, len(rows), config.batch_size)]
        for index in generator.permutation(len(batches)):
            pending.append(batches[index])
            if len(pending) == config.gradient_accumulation:
                yield pending
                pending = []
    if pending:
        yield pending


def _train_step(
    model: Any, batches: list[Any], padding_id: int, device: Any, optimizer: Any, config: TeacherConfig
) -> tuple[float, int]:
    """One optimiser step; returns the mean loss and the number of real tokens."""
    import torch

    from leader_platform.models.losses import recommendation_loss
    from leader_platform.models.teacher import multi_hot, pad_tokens

    num_classes = (model.module if hasattr(model, "module") else model).head.out_features
    num_rows = sum(len(batch) for batch in batches)
    total, num_tokens = 0.0, 0
    for batch in batches:
        tokens, mask = pad_tokens([row["token_ids"] for row in batch], padding_id)
        labels = multi_hot([row["label_indices"] for row in batch], num_classes).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
            _, logits = model(tokens.to(device), mask.to(device))
        loss = recommendation_loss(logits.float(), labels) * len(batch) / num_rows
        loss.backward()
        total, num_tokens = total + float(loss), num_tokens + int(mask.sum())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, num_tokens


# --- checkpoints and export ------------------------------------------------------------------------------------------


def _trainable(model: Teacher) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _checkpoint(folder: Path, model: Teacher, optimizer: Any, scheduler: Any, place: _Place) -> Any:
    """What is trained and where in the data the training stands; only the first worker writes it."""
    import torch
    from ray import train
    from safetensors.torch import save_file

    if train.get_context().get_world_rank() > 0:
        return None
    save_file({name: weight.contiguous() for name, weight in _trainable(model).items()}, str(folder / TRAINABLE_FILE))
    model.backbone.save_pretrained(str(folder / "adapter"))
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "place": vars(place)}
    torch.save(state, folder / "progress.pt")
    return train.Checkpoint.from_directory(folder)


def _restore(model: Teacher, optimizer: Any, scheduler: Any) -> _Place:
    """Continue from Ray Train's last checkpoint, if it has one; else the beginning."""
    import torch
    from ray import train
    from safetensors.torch import load_file

    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        return _Place()
    with checkpoint.as_directory() as folder:
        weights = load_file(str(Path(folder, TRAINABLE_FILE)))
        state = torch.load(Path(folder, "progress.pt"), map_location="cpu", weights_only=True)
    for name, weight in _trainable(model).items():
        weight.copy_(weights[name])  # `detach`ed views share their storage with the model
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return _Place(**state["place"])


def _export(checkpoint: Checkpoint, directory: str, config: TeacherConfig, num_classes: int) -> None:
    """Write adapter, head, and the merged model with its tokenizer from a checkpoint into a run's `teacher/`."""
    import pyarrow.fs as pafs
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    from leader_platform.models.teacher import HEAD_FILE, MERGED

    causal_lm = load_causal_lm(config.backbone, torch.float32)
    with tempfile.TemporaryDirectory() as folder, checkpoint.as_directory() as saved:
        shutil.copytree(Path(saved, "adapter"), Path(folder, "adapter"))
        PeftModel.from_pretrained(causal_lm.get_decoder(), str(Path(saved, "adapter"))).merge_and_unload()
        merged = causal_lm.bfloat16() if config.dtype == "bfloat16" else causal_lm
        merged.save_pretrained(str(Path(folder, MERGED)))
        load_tokenizer(config.backbone).save_pretrained(str(Path(folder, MERGED)))
        weights = load_file(str(Path(saved, TRAINABLE_FILE)))
        head = {name.removeprefix("head."): weight for name, weight in weights.items() if name.startswith("head.")}
        assert head["weight"].shape[0] == num_classes
        save_file(head, str(Path(folder, HEAD_FILE)))
        target, path = storage.filesystem(directory)
        pafs.copy_files(folder, path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=target)

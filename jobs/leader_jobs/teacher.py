"""Stage `teacher`: tune a language model with LoRA and a medication head, and export what the other stages load.

    samples --Ray Data: fit, tokenise--> tokens --untuned states, regression--> head
                                         tokens, head --Ray Train: steps, validations--> checkpoint --export--> teacher/

The export holds `adapter/` (peft), `head.safetensors`, `merged/` (model and tokenizer, for vLLM and transformers) and
the data set's vocabulary, titles and interactions, so that serving needs nothing else.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader_jobs.placement import MAX_RESTARTS, require_room, worker_bundle
from leader_jobs.precision import resolve_precision
from leader_jobs.reports import Count, counted
from leader_jobs.tokens import SAMPLE_COLUMNS, Tokenise
from leader_jobs.training import (
    DATASET_FILES,
    begin_renewal,
    class_frequency,
    copy_dataset_files,
    data_facts,
    require_finite,
    run_trainer,
    seed_everything,
    tell,
    training_facts,
    worker_progress,
)
from leader_platform import storage
from leader_platform.artifacts import TEACHER, Run
from leader_platform.config import LeaderConfig, TeacherConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import UserError
from leader_platform.models.backbone import load_causal_lm, load_tokenizer
from leader_platform.models.memory import CONTINUE, explain_out_of_memory, training_advice, warm_start_advice
from leader_platform.preload import preload_environment
from leader_platform.progress import Progress

if TYPE_CHECKING:
    from ray.data import Dataset

    from leader_jobs.teacher_checkpoint import Tuning
    from leader_platform.models.teacher import Teacher


def train_teacher(
    data: PreparedData, run: Run, config: LeaderConfig, key: str, resume: bool, progress: Progress
) -> None:
    """Tune the teacher on the training split and write `teacher/`. Runs on the Ray that is connected."""
    import ray

    from leader_jobs.teacher_checkpoint import export, export_memory_bytes

    teacher = config.teacher
    _require_samples(data, teacher)
    resources = config.resources
    bundle = worker_bundle(resources)
    require_room(bundle, teacher.num_workers, "Tuning", resources.wait_for_nodes_s, progress)
    exporting = {"CPU": 1.0, "memory": export_memory_bytes(teacher.backbone, teacher.depth)}
    require_room(exporting, 1, "Merging the adapter", resources.wait_for_nodes_s, progress)
    dtype = resolve_precision(teacher.dtype, "training", bundle, progress)
    resolved = config.model_copy(update={"teacher": teacher.model_copy(update={"dtype": dtype})})
    num_samples = data.manifest["splits"]["train"]["samples"]
    total_steps = _total_steps(teacher, num_samples)
    tokens = {"train": _tokens(data, "train", config, progress)}
    if teacher.evaluate_steps is not None or teacher.head_warm_start:
        tokens["validation"] = _tokens(data, "validation", config, progress, teacher.validation_samples)
    head = run.scratch("teacher_head", key)
    about: dict[str, Any] = {"backbone": teacher.backbone, "dtype": dtype, **data_facts(data)}
    if teacher.head_warm_start and not (resume and storage.exists(head)):
        with explain_out_of_memory("The head's warm start", warm_start_advice(teacher)):
            about["head"] = _warm_start(tokens, data, head, resolved, progress)
    progress.log(f"Tuning {teacher.backbone} with LoRA: {total_steps} steps on {num_samples} samples")
    scratch = run.scratch(TEACHER, key)
    arguments = {
        "data": data.uri,
        "config": resolved.model_dump(mode="json"),
        "total_steps": total_steps,
        "head": head if teacher.head_warm_start else None,
    }
    checkpoint, history = run_trainer(
        _worker, arguments, tokens, scratch, config, teacher.num_workers, resume, progress, _environment(config)
    )
    about |= training_facts(history)
    progress.log("Exporting the adapter, the head and the merged model")
    with progress.task("Exporting the teacher"), run.product(TEACHER, key, config, about) as directory:
        # In a process of its own that ends with it: this one lives on through the later stages.
        task = ray.remote(num_cpus=1, memory=exporting["memory"], max_calls=1)(export)
        exported = task.remote(checkpoint, directory, resolved.teacher)
        with explain_out_of_memory("Exporting the teacher", f"free some or use a larger machine, then {CONTINUE}"):
            about["parameters"] = ray.get(exported)
        copy_dataset_files(data, directory, DATASET_FILES)
    for place in (scratch, head):
        storage.remove(place)


def _require_samples(data: PreparedData, config: TeacherConfig) -> None:
    if not data.sample_parts("train"):
        raise UserError(f"{data.uri} has no train samples; prepare it from more patients.")
    wanted = config.evaluate_steps is not None or config.head_warm_start
    if wanted and not data.manifest["splits"]["validation"]["samples"]:
        raise UserError(
            f"{data.uri} has no validation samples to judge the teacher on; prepare it with a larger "
            "data.validation_fraction, or set teacher.evaluate_steps=null and teacher.head_warm_start=false."
        )


def _total_steps(config: TeacherConfig, num_samples: int) -> int:
    samples_a_step = config.batch_size * config.gradient_accumulation * config.num_workers
    steps = config.max_epochs * math.ceil(num_samples / samples_a_step)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _environment(config: LeaderConfig) -> dict[str, str]:
    """Of the processes that compute on a CPU."""
    return {} if config.resources.gpus_per_worker > 0 else preload_environment()


def _tokens(
    data: PreparedData, split: str, config: LeaderConfig, progress: Progress, at_most: int | None = None
) -> Dataset:
    import ray

    # By our own reader: Ray's takes a path for a URI, and below a folder with a question mark it finds nothing.
    parts = [{"part": part} for part in data.sample_parts(split)]
    samples = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        lambda batch: storage.read_parquet(str(batch["part"][0]), SAMPLE_COLUMNS),
        batch_size=1,
        num_cpus=0.5,  # beside the tokeniser's half, or on one core the two would wait for each other for ever
    )
    total = data.manifest["splits"][split]["samples"]
    total = total if at_most is None else min(total, at_most)
    with counted(progress, f"Tokenising {split} samples", total, "samples") as count:
        tokens = (samples if at_most is None else samples.limit(at_most)).map_batches(
            Tokenise,
            fn_constructor_args=(data.uri, config.teacher.backbone, config.prompt, count),
            batch_format="pyarrow",
            batch_size=256,
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        # Tokenised once and kept in the object store (which spills to disk): epochs read the same tokens again.
        return tokens.materialize()


def _warm_start(
    tokens: dict[str, Dataset], data: PreparedData, directory: str, config: LeaderConfig, progress: Progress
) -> dict[str, Any]:
    """Fit the head on the untuned backbone's states and write it to `directory`; returns what it reached."""
    import ray

    from leader_jobs.teacher_head import ReadStates

    progress.log(f"Fitting the head on the states of the untuned {config.teacher.backbone}")
    resources = config.resources

    def read(rows: Dataset, count: Count) -> Dataset:
        return rows.map_batches(
            ReadStates,
            fn_constructor_args=(config.teacher, resources.threads, count),
            batch_format="pyarrow",
            batch_size=64,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
            num_cpus=resources.cores,
            num_gpus=resources.gpus_of_one_process,
            compute=ray.data.ActorPoolStrategy(size=config.teacher.num_workers),
            runtime_env={"env_vars": _environment(config)},
        ).materialize()

    rows = [tokens["train"].limit(config.teacher.head_warm_start_samples), tokens["validation"]]
    total = sum(part.count() for part in rows)
    with counted(progress, "Reading states for the head", total, "samples") as count:
        states = [read(part, count) for part in rows]
    with progress.task("Fitting the head"):
        fit = ray.remote(num_cpus=1, max_calls=1)(_fit_head)
        told: dict[str, Any] = ray.get(fit.remote(states, data.uri, config.teacher, directory))
    progress.log(f"  {told['samples']} samples  validation PRAUC {told['prauc']:.4g}")
    return told


def _fit_head(states: Sequence[Dataset], uri: str, config: TeacherConfig, directory: str) -> dict[str, Any]:
    """Fit on the first of `states`, judge on the second."""
    from safetensors.torch import save

    from leader_jobs.teacher_head import Read, fit_head
    from leader_jobs.teacher_steps import label_weights
    from leader_platform.models.renewal import Renewal
    from leader_platform.models.teacher import HEAD_FILE

    frequency = class_frequency(PreparedData(uri))
    train, validation = (Read.of(rows, len(frequency)) for rows in states)
    weights = label_weights(frequency, config, "cpu")
    renewal = Renewal(len(frequency)) if config.renewal else None
    if renewal is not None:
        begin_renewal(renewal, train.given.numpy(), train.labels.numpy() > 0, frequency)
    head, told = fit_head(train, validation, frequency, weights, config.head_prior_bias, renewal)
    storage.write_bytes(storage.join(directory, HEAD_FILE), save(dict(head.state_dict())))
    return told


# --- in the Ray Train worker -----------------------------------------------------------------------------------------


def _worker(arguments: dict[str, Any]) -> None:
    config = TeacherConfig.model_validate(arguments["config"]["teacher"])
    with explain_out_of_memory("The teacher's training", training_advice(config)):
        _train(arguments)


def _train(arguments: dict[str, Any]) -> None:
    """The training loop of one worker, top to bottom."""
    from ray import train

    from leader_jobs.teacher_checkpoint import Tuning
    from leader_jobs.teacher_steps import (
        gradient_scaler,
        label_weights,
        optimizer_and_schedule,
        steps,
        train_step,
    )
    from leader_jobs.teacher_workers import shard_backbone

    config = LeaderConfig.model_validate(arguments["config"])
    data, teacher, total_steps = PreparedData(arguments["data"]), config.teacher, arguments["total_steps"]
    rank = train.get_context().get_world_rank()
    seed_everything(teacher.seed)  # the same adapter and head in every worker
    device = train.torch.get_device()
    model = _build(teacher, data, arguments["head"])
    if teacher.shard_backbone:
        shard_backbone(model, device)
    else:
        model.to(device)
    model.train()  # `from_pretrained` leaves models in evaluation mode
    # On its device before the optimizer's state is restored to it.
    scaler = gradient_scaler(teacher.dtype, device)
    tuning = Tuning(model, *optimizer_and_schedule(model, teacher, total_steps), scaler)
    if (checkpoint := train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            tuning.restore(Path(folder))
    padding_id = load_tokenizer(teacher.backbone).pad_token_id
    weights = label_weights(class_frequency(data), teacher, device)
    progress = worker_progress(arguments)
    validate = _validator(tuning, teacher, padding_id, arguments, progress)
    place = tuning.place
    log = _StepLog(arguments)
    with progress.task("LoRA", total_steps, "steps", place.step) as task:
        if place.step == 0:
            validate()  # tuning must beat what it begins with
        for rows in steps(train.get_dataset_shard("train"), teacher, place, total_steps):
            seed_everything(teacher.seed, rank, place.step)  # a resumed run draws the dropout an undisturbed one does
            began = time.monotonic()
            with explain_out_of_memory(f"The teacher's training at step {place.step}", training_advice(teacher)):
                loss, num_tokens = train_step(model, rows, padding_id, tuning.optimizer, weights, teacher, scaler)
            tuning.scheduler.step()
            log.add(require_finite(loss, "teacher", place.step), num_tokens, time.monotonic() - began)
            task.update(place.step, loss=loss)
            last = place.step == total_steps
            if place.step % teacher.log_steps == 0 or last:
                log.tell(place.step)
            if teacher.evaluate_steps is not None and (place.step % teacher.evaluate_steps == 0 or last):
                validate()
            if place.step % teacher.checkpoint_steps == 0 or last or place.out_of_patience(teacher):
                _report(tuning, loss, rank)


@dataclass
class _StepLog:
    """Steps since the last line about them."""

    arguments: dict[str, Any]
    losses: list[float] = field(default_factory=list)
    num_tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, num_tokens: int, seconds: float) -> None:
        self.losses.append(loss)
        self.num_tokens, self.seconds = self.num_tokens + num_tokens, self.seconds + seconds

    def tell(self, step: int) -> None:
        """A line: the mean loss, and the speed of the steps alone, without validations and checkpoints."""
        loss, rate = sum(self.losses) / len(self.losses), self.num_tokens / self.seconds
        tell(self.arguments, {"step": step, "loss": loss, "tokens_per_second": rate})
        self.losses, self.num_tokens, self.seconds = [], 0, 0.0


def _validator(
    tuning: Tuning, config: TeacherConfig, padding_id: int, arguments: dict[str, Any], progress: Progress
) -> Callable[[], None]:
    """A function that validates the weights as they are now; it does nothing where validations are off.

    Every worker validates on all samples, and all keep to the first one's answer: a last digit must not end one worker
    and leave the others waiting.
    """
    import torch
    from ray import train

    from leader_jobs.teacher_steps import validation_prauc

    if config.evaluate_steps is None:
        return lambda: None
    shard = train.get_dataset_shard("validation")
    assert shard is not None
    rows = [row for batch in shard.iter_batches(batch_size=256, batch_format="pyarrow") for row in batch.to_pylist()]

    def validate() -> None:
        with progress.task("validation", len(rows), "samples") as task:
            answer = [validation_prauc(tuning.model, rows, padding_id, config.micro_batch_tokens, task.advance)]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(answer, src=0)
        tuning.judge(answer[0])
        tell(arguments, {"step": tuning.place.step, "validation_prauc": answer[0]})

    return validate


def _report(tuning: Tuning, loss: float, rank: int) -> None:
    """Hand Ray Train a checkpoint; of several workers the first one's is kept."""
    from ray import train

    with tempfile.TemporaryDirectory() as folder:
        if rank == 0:
            tuning.save(Path(folder))
        train.report({"loss": loss}, checkpoint=train.Checkpoint.from_directory(folder) if rank == 0 else None)


def _build(config: TeacherConfig, data: PreparedData, head_directory: str | None) -> Teacher:
    import torch

    from leader_platform.models.teacher import MedicationHead, Teacher, load_head, with_adapter

    causal_lm = load_causal_lm(config.backbone, getattr(torch, config.dtype), config.depth)
    hidden_size = causal_lm.config.get_text_config().hidden_size
    if head_directory is not None:
        head = load_head(head_directory).requires_grad_(True)
    elif config.head_prior_bias:
        head = MedicationHead.with_prior(hidden_size, class_frequency(data), config.renewal)
    else:
        head = MedicationHead(hidden_size, len(data.vocabulary.medications), bias=False, renewal=config.renewal)
    return Teacher(with_adapter(causal_lm, config), head, config.pooling)

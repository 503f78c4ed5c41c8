"""Stages `distill` and `student`: train the student, with the teacher's features or without a teacher.

    samples + features, row for row --Ray Data--> each worker's shard in memory --epochs, early stopping--> student/

A shard is read into memory once: encoded records are small, and epochs over memory cost nothing to start, where a Ray
Data pass costs about a second. `student/` holds weights, configuration, vocabulary, titles and interactions.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from leader_jobs.tokens import SAMPLE_COLUMNS
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
from leader_platform import metrics, storage
from leader_platform.artifacts import FEATURES, STUDENT, STUDENT_ALONE, Run
from leader_platform.config import LeaderConfig, StudentConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.records import PatientRecord
from leader_platform.data.vocabulary import SPECIAL
from leader_platform.features import matrix, probabilities
from leader_platform.models.student import EncodedRecord, Student, StudentLoss, code_sets, collate, encode_record
from leader_platform.predict import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """What a worker trains on or validates with, in memory."""

    records: list[EncodedRecord]
    labels: list[list[int]]  # label indices of each sample
    teacher_states: np.ndarray | None  # [samples, hidden]

    def __len__(self) -> int:
        return len(self.records)


def train_student(
    data: PreparedData,
    run: Run,
    config: LeaderConfig,
    key: str,
    resume: bool,
    say: Callable[[str], None],
    with_teacher: bool = True,
) -> None:
    """Train on the training split, stop early on the validation split, write `student/` or `student_alone/`."""
    stage = STUDENT if with_teacher else STUDENT_ALONE
    say(f"Training the student {'with the teacher' if with_teacher else 'without a teacher'}")
    features = run.path(FEATURES) if with_teacher else None
    datasets = {"train": _rows(data, "train", features), "validation": _rows(data, "validation", None)}
    arguments = {"data": data.uri, "config": config.model_dump(mode="json")}
    checkpoint, history = run_trainer(
        _worker, arguments, datasets, run.scratch(stage, key), config, config.student.num_workers, resume, say
    )
    about: dict[str, Any] = {"with_teacher": with_teacher, "training": history, **data_facts(data)}
    made_from = (FEATURES,) if with_teacher else ()
    with run.product(stage, key, config, about, made_from) as directory, checkpoint.as_directory() as folder:
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            storage.write_bytes(storage.join(directory, name), Path(folder, f"best-{name}").read_bytes())
        copy_dataset_files(data, directory, DATASET_FILES)
    storage.remove(run.scratch(stage, key))


def _rows(data: PreparedData, split: str, features: str | None) -> Any:
    """A split's samples as a Ray data set, each with its `hidden_state` where features are given."""
    import ray

    def read(batch: Any) -> pa.Table:
        part = str(batch["part"][0])
        samples = storage.read_parquet(part, SAMPLE_COLUMNS)
        if features is None:
            return samples
        states = storage.read_parquet(
            storage.join(features, split, part.rsplit("/", 1)[-1]), ["sample_id", "hidden_state"]
        )
        assert states["sample_id"].equals(samples["sample_id"]), f"features are not aligned with {part}"
        return samples.append_column("hidden_state", states["hidden_state"])

    parts = [{"part": part} for part in data.sample_parts(split)]
    rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(read, batch_size=1)
    # Read before the workers start: on a small machine they hold every core, and a read that waits for one would wait
    # for ever.
    return rows.materialize()


# --- in the Ray Train worker -----------------------------------------------------------------------------------------


def _worker(arguments: dict[str, Any]) -> None:
    """The training loop of one worker, top to bottom."""
    import torch
    from ray import train

    config = LeaderConfig.model_validate(arguments["config"])
    student = config.student
    rank = train.get_context().get_world_rank()
    seed_everything(student.seed)  # the same weights in every worker
    data = PreparedData(arguments["data"])
    examples, validation = _load("train", data), _load("validation", data)
    states = examples.teacher_states
    device = train.torch.get_device()
    # On its device before the optimizer's state is restored to it.
    model = Student(student, data.vocabulary, None if states is None else states.shape[1]).to(device)
    if student.output_prior_bias:
        model.begin_with(class_frequency(data))
    optimizer = torch.optim.Adam(model.parameters(), lr=student.learning_rate)
    progress = _Progress.restore(model, optimizer)
    trained = train.torch.prepare_model(StudentLoss(model, student))
    while not progress.ended(student):
        seed_everything(student.seed, rank, progress.epoch)  # so that a resumed run draws what an undisturbed one does
        rows_of_batches = _batches(examples, student, progress.epoch, rank)
        losses = [_train_step(trained, optimizer, examples, rows, device) for rows in rows_of_batches]
        loss = require_finite(float(np.mean(losses)), "student", progress.epoch + 1)
        labels, scores = _predict(model, validation, device)
        prauc = float(np.nanmean(metrics.average_precision(labels, scores)))
        progress.advance(model, prauc, metrics.best_threshold(labels, scores, config.evaluate.threshold_metric))
        told = {"epoch": progress.epoch, "loss": loss, "validation_prauc": prauc}
        tell(arguments, told)
        if progress.epoch % student.checkpoint_epochs == 0 or progress.ended(student):
            with tempfile.TemporaryDirectory() as folder:
                train.report(told, checkpoint=progress.checkpoint(Path(folder), model, optimizer))


def _load(split: str, data: PreparedData) -> Examples:
    """This worker's shard of a split, encoded."""
    from ray import train

    records: list[EncodedRecord] = []
    labels: list[list[int]] = []
    states: list[np.ndarray] = []
    shard = train.get_dataset_shard(split)
    assert shard is not None
    for batch in shard.iter_batches(batch_size=1024, batch_format="pyarrow"):
        rows = batch.drop_columns([n for n in batch.column_names if n == "hidden_state"]).to_pylist()
        records += [encode_record(PatientRecord.from_sample(row), data.vocabulary) for row in rows]
        labels += [data.vocabulary.labels(row["labels"]) for row in rows]
        if "hidden_state" in batch.column_names:
            states.append(matrix(batch["hidden_state"]))
    return Examples(records, labels, np.concatenate(states) if states else None)


def _batches(examples: Examples, config: StudentConfig, epoch: int, rank: int) -> Iterator[np.ndarray]:
    """Row numbers of an epoch's batches: shuffled, the same for the same seed, epoch and worker."""
    order = np.random.default_rng([config.seed, epoch, rank]).permutation(len(examples))
    for start in range(0, len(order), config.batch_size):
        yield order[start : start + config.batch_size]


def _train_step(trained: Any, optimizer: Any, examples: Examples, rows: np.ndarray, device: Any) -> float:
    """One optimiser step on some rows of the shard; returns the loss."""
    import torch

    from leader_platform.models.teacher import multi_hot

    trained.train()
    label_indices = [examples.labels[row] for row in rows]
    medications = code_sets([[[index + len(SPECIAL) for index in indices]] for indices in label_indices]).codes
    states = None if examples.teacher_states is None else torch.from_numpy(examples.teacher_states[rows]).to(device)
    num_classes = (trained.module if hasattr(trained, "module") else trained).student.output.out_features
    loss = trained(
        collate([examples.records[row] for row in rows]).to(device),
        multi_hot(label_indices, num_classes).to(device),
        medications.to(device),
        states,
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _predict(model: Student, examples: Examples, device: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels (bool) and probabilities of some examples, both [samples, medications]."""
    import torch

    from leader_platform.models.teacher import multi_hot

    model.eval()
    logits = []
    with torch.inference_mode():
        for start in range(0, len(examples), 256):
            logits.append(model(collate(examples.records[start : start + 256]).to(device)).logits.cpu().numpy())
    labels = multi_hot(examples.labels, model.output.out_features).numpy() > 0
    return labels, probabilities(np.concatenate(logits))


@dataclass
class _Progress:
    """How far the training has come, and the best weights so far."""

    epoch: int = 0
    best_prauc: float = -1.0
    best_threshold: float = 0.5
    epochs_since_best: int = 0
    best_weights: dict[str, Tensor] | None = None

    def advance(self, model: Student, prauc: float, threshold: float) -> None:
        """Count an epoch, and keep its weights if it is the best on validation."""
        self.epoch += 1
        self.epochs_since_best += 1
        if prauc > self.best_prauc:
            self.best_prauc, self.best_threshold, self.epochs_since_best = prauc, threshold, 0
            self.best_weights = {name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()}

    def ended(self, config: StudentConfig) -> bool:
        return self.epoch >= config.max_epochs or self.epochs_since_best >= config.patience

    def checkpoint(self, folder: Path, model: Student, optimizer: Any) -> Any:
        """From which training can go on and the best model be exported; only the first worker writes it."""
        import torch
        from ray import train
        from safetensors.torch import save_file

        if train.get_context().get_world_rank() > 0:
            return None
        assert self.best_weights is not None
        kept = {name: weight for name, weight in self.best_weights.items() if not name.startswith("to_teacher")}
        save_file(kept, str(folder / f"best-{WEIGHTS_FILE}"))
        about = {"threshold": self.best_threshold, "validation_prauc": self.best_prauc}
        (folder / f"best-{CONFIG_FILE}").write_text(json.dumps(about | {"student": model.config.model_dump()}))
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(self)}
        torch.save(state, folder / "progress.pt")
        return train.Checkpoint.from_directory(folder)

    @classmethod
    def restore(cls, model: Student, optimizer: Any) -> _Progress:
        """From Ray Train's last checkpoint, if it has one; else the beginning."""
        import torch
        from ray import train

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            return cls()
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder, "progress.pt"), map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return cls(**state["progress"])

"""The student's training as one object: it takes an epoch when asked, keeps the best weights, can be saved and go on.

It knows no Ray: `distill` runs it in Ray Train's workers, `tune` in Ray Tune's trials.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from leader_jobs.training import begin_renewal, require_finite, seed_everything
from leader_platform.config import EvaluateConfig, StudentConfig
from leader_platform.data.records import PatientRecord
from leader_platform.data.vocabulary import Vocabulary
from leader_platform.errors import UserError
from leader_platform.evaluation import metrics
from leader_platform.evaluation.calibration import fit_temperature
from leader_platform.features import matrix, probabilities
from leader_platform.models.code_book import CodeBook, encode
from leader_platform.models.encoding import EncodedRecords, Ragged, medication_sets
from leader_platform.models.student import Packed, Student, StudentLoss, collate
from leader_platform.predict import CONFIG_FILE, WEIGHTS_FILE

PROGRESS_FILE = "progress.pt"
FEATURE_COLUMNS = ("hidden_state", "logits")  # of the teacher's features, those that distillation reads
_VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Examples:
    """What a student trains on or validates with, in memory."""

    records: EncodedRecords
    labels: Ragged  # label indices of each sample
    teacher_states: np.ndarray | None = None  # float32 [samples, hidden]
    teacher_scores: np.ndarray | None = None  # float32 [samples, medications] the teacher's probabilities

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def encode(cls, batches: Iterable[pa.Table], vocabulary: Vocabulary, book: CodeBook | None = None) -> Examples:
        """From samples (`tokens.SAMPLE_COLUMNS`), each with its teacher's `FEATURE_COLUMNS` if there is a teacher."""
        records: list[PatientRecord] = []
        labels: list[list[int]] = []
        features: dict[str, list[np.ndarray]] = {name: [] for name in FEATURE_COLUMNS}
        for batch in batches:
            told = [name for name in FEATURE_COLUMNS if name in batch.column_names]
            rows = batch.drop_columns(told).to_pylist()
            records += [PatientRecord.from_sample(row) for row in rows]
            labels += [vocabulary.labels(row["labels"]) for row in rows]
            for name in told:
                features[name].append(matrix(batch[name]))
        states, logits = (np.concatenate(parts) if parts else None for parts in features.values())
        scores = None if logits is None else probabilities(logits)
        return cls(encode(records, vocabulary, book), Ragged.of(labels), states, scores)

    def targets(self, rows: np.ndarray, num_classes: int) -> np.ndarray:
        """0/1 labels of some samples, float32 [rows, classes]."""
        labels = self.labels.take(rows)
        targets = np.zeros((len(rows), num_classes), np.float32)
        targets[labels.owners, labels.values] = 1
        return targets

    def soft_targets(self, rows: np.ndarray, num_classes: int, weight: float) -> np.ndarray:
        """Labels mixed with the teacher's probabilities, which weigh `weight`: what the teacher holds likely but the
        doctor did not prescribe is not wholly wrong (Hinton and others 2015)."""
        targets = self.targets(rows, num_classes)
        return targets if self.teacher_scores is None else (1 - weight) * targets + weight * self.teacher_scores[rows]


@dataclass
class _Progress:
    """How far the training has come, and the best weights so far."""

    epoch: int = 0
    best_prauc: float = -1.0
    best_threshold: float = 0.5
    temperature: float = 1.0
    epochs_since_best: int = 0
    best_weights: dict[str, Tensor] | None = None


class StudentTraining:
    """A student in training. Equal arguments give equal weights, whether or not it was saved and restored between.

    `class_frequency` [medications] is the share of training samples with each; `rank` tells workers of one training
    apart; `wrap` makes a module distributed. Raises `UserError` where there is nothing to train on or to validate with.
    """

    def __init__(
        self,
        config: StudentConfig,
        evaluate: EvaluateConfig,
        vocabulary: Vocabulary,
        train: Examples,
        validation: Examples,
        class_frequency: Tensor,
        book: CodeBook | None = None,
        device: torch.device | None = None,
        rank: int = 0,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        require_usable(train, validation)
        self.config, self.evaluate, self.vocabulary = config, evaluate, vocabulary
        self.train, self.validation = train, validation
        self.device, self.rank = device or torch.device("cpu"), rank
        seed_everything(config.seed)  # the same weights in every worker
        width = None if train.teacher_states is None else train.teacher_states.shape[1]
        # On its device before the optimizer's state is restored to it.
        self.model = Student(config, vocabulary, width, book).to(self.device)
        if config.output_prior_bias:
            self.model.begin_with(class_frequency)
        if self.model.wide is not None:
            assert train.records.wide is not None
            given, labels = train.records.wide.given(), train.targets(np.arange(len(train)), len(class_frequency)) > 0
            begin_renewal(self.model.wide.renewal, given, labels, class_frequency)
        self._loss = wrap(StudentLoss(self.model, config))
        # Fused: one pass over all weights, where the default takes a dozen a tensor.
        self._optimizer = torch.optim.Adam(self._groups(), lr=config.learning_rate, fused=True)
        self._current = medication_sets(train.labels, vocabulary)
        self._progress = _Progress()

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate and penalty."""
        if self.model.wide is None:
            return [{"params": list(self.model.parameters())}]
        free = list(self.model.wide.renewal.parameters())  # no penalty draws these to nothing
        wide = [weight for weight in self.model.wide.parameters() if _is_not_in(weight, free)]
        deep = [weight for weight in self.model.parameters() if _is_not_in(weight, [*free, *wide])]
        # A logistic regression adds its penalty to the loss of all samples and classes; ours is their mean.
        scale = len(self.train) * self.config.num_workers * self.model.output.out_features
        penalty = self.config.wide_penalty / scale
        rate = self.config.wide_learning_rate
        return [{"params": deep}, {"params": free, "lr": rate}, {"params": wide, "lr": rate, "weight_decay": penalty}]

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._progress.epoch

    @property
    def best_prauc(self) -> float:
        """Of the best epoch so far, on validation; -1 before the first."""
        return self._progress.best_prauc

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or too many since the best."""
        progress = self._progress
        return progress.epoch >= self.config.max_epochs or progress.epochs_since_best >= self.config.patience

    def run_epoch(self) -> dict[str, Any]:
        """Train on every sample once, validate, keep the best weights; returns what there is to tell."""
        # So that a resumed training draws what an undisturbed one does.
        seed_everything(self.config.seed, self.rank, self.epoch)
        order = np.random.default_rng([self.config.seed, self.epoch, self.rank]).permutation(len(self.train))
        size = self.config.batch_size
        losses = [self._step(order[start : start + size]) for start in range(0, len(order), size)]
        loss = require_finite(float(np.mean(losses)), "student", self.epoch + 1)
        prauc = self._validate()
        return {"epoch": self.epoch, "loss": loss, "validation_prauc": prauc}

    def _step(self, rows: np.ndarray) -> float:
        """One optimiser step on some rows of the training samples; returns the loss."""
        self._loss.train()
        states = self.train.teacher_states
        loss = self._loss(
            collate(self.train.records, rows).to(self.device),
            torch.from_numpy(self._targets(rows)).to(self.device),
            Packed.of(self._current.take(rows)).to(self.device),
            None if states is None else torch.from_numpy(states[rows]).to(self.device),
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        return self.train.soft_targets(rows, self.model.output.out_features, self.config.soft_label_weight)

    def _validate(self) -> float:
        """Count the epoch, and keep its weights if it is the best on validation; returns its PRAUC."""
        labels = self.validation.targets(np.arange(len(self.validation)), self.model.output.out_features) > 0
        logits = self._logits(self.validation.records)
        scores = probabilities(logits)
        prauc = float(np.nanmean(metrics.average_precision(labels, scores)))
        progress = self._progress
        progress.epoch += 1
        progress.epochs_since_best += 1
        if prauc > progress.best_prauc:
            progress.best_prauc, progress.epochs_since_best = prauc, 0
            progress.temperature = fit_temperature(logits, labels) if self.config.calibrate else 1.0
            calibrated = probabilities(logits / progress.temperature)
            progress.best_threshold = metrics.best_threshold(labels, calibrated, self.evaluate.threshold_metric)
            weights = self.model.state_dict()
            progress.best_weights = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
        return prauc

    def _logits(self, records: EncodedRecords) -> np.ndarray:
        """Logits [samples, medications]."""
        self.model.eval()
        logits = []
        with torch.inference_mode():
            for start in range(0, len(records), _VALIDATION_BATCH):
                rows = np.arange(start, min(start + _VALIDATION_BATCH, len(records)))
                logits.append(self.model(collate(records, rows).to(self.device)).logits.cpu().numpy())
        return np.concatenate(logits)

    def save(self, folder: Path) -> None:
        """What `restore` goes on from, and the best student so far as serving reads it, its files named `best-...`."""
        from safetensors.torch import save_file

        progress = self._progress
        assert progress.best_weights is not None
        kept = {name: weight for name, weight in progress.best_weights.items() if not name.startswith("to_teacher")}
        save_file(kept, str(folder / f"best-{WEIGHTS_FILE}"))
        about = {
            "threshold": progress.best_threshold,
            "temperature": progress.temperature,
            "validation_prauc": progress.best_prauc,
        }
        (folder / f"best-{CONFIG_FILE}").write_text(json.dumps(about | {"student": self.config.model_dump()}))
        (folder / PROGRESS_FILE).write_bytes(self.progress())

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self.go_on_from((folder / PROGRESS_FILE).read_bytes())

    def progress(self) -> bytes:
        """All that `go_on_from` needs, in torch's format."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "progress": vars(self._progress),
        }
        written = io.BytesIO()
        torch.save(state, written)
        return written.getvalue()

    def go_on_from(self, progress: bytes) -> None:
        state = torch.load(io.BytesIO(progress), map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._progress = _Progress(**state["progress"])


def _is_not_in(weight: Tensor, others: Iterable[Tensor]) -> bool:
    return all(weight is not other for other in others)


def require_usable(train: Examples, validation: Examples) -> None:
    """`UserError` unless there are samples to train on and labels to validate with."""
    if not len(train):
        raise UserError(
            "A worker has no training samples; lower student.num_workers, or prepare a data set of more patients."
        )
    if not validation.labels.lengths.any():
        held = "no samples" if not len(validation) else "no sample with a medication that training saw"
        raise UserError(
            f"The validation split has {held}, so the best epoch cannot be told; prepare the data set from more "
            "patients or with a larger data.validation_fraction."
        )

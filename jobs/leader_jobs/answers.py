"""The models' answers to one part's samples, kept beside what they were made with, so that an evaluation goes on.

A model that stages make (teacher, student) and a baseline that is fitted here are answered alike: probabilities for the
validation and the test split, and a threshold that was tuned on the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from leader_jobs import pipeline
from leader_jobs.checks import check_stages
from leader_jobs.protocol import Part
from leader_platform import baselines, storage
from leader_platform.artifacts import FEATURES, STUDENT, STUDENT_ALONE
from leader_platform.config import fingerprint
from leader_platform.data.dataset import PreparedData
from leader_platform.data.records import PatientRecord
from leader_platform.errors import UserError
from leader_platform.evaluation import metrics
from leader_platform.features import label_matrix, list_column, matrix, probabilities, read_features
from leader_platform.predict import Knowledge, StudentPredictor
from leader_platform.progress import Progress

_BATCH = 256
_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Trained:
    """A model that stages make: the stage that ends its training, and the product that it is read from."""

    stage: str
    product: str


TRAINED = {
    "student_without_teacher": Trained("student", STUDENT_ALONE),
    "student": Trained("distill", STUDENT),
    "teacher": Trained("features", FEATURES),
}


@dataclass(frozen=True)
class Answer:
    """One model's answer to a part's test samples."""

    sample_ids: list[str]
    scores: np.ndarray  # float32 [samples, medications of the part]
    threshold: float
    seconds_per_sample: float | None


def train(part: Part, models: Sequence[str], progress: Progress) -> None:
    """Run the stages that `models` need and that are not current, going on where one was interrupted."""
    for name in models:
        if name not in TRAINED:
            continue
        steps = pipeline.plan(TRAINED[name].stage, part.data, part.run, part.config, False, False)
        if steps:
            check_stages(steps, part.run, part.config)
            progress.log(f"{part.name}: training the {name.replace('_', ' ')}")
            pipeline.train(TRAINED[name].stage, part.data, part.run, part.config, progress, resume=True)


def has(part: Part, model: str) -> bool:
    """Whether the part's run has what the model is read from; a baseline needs nothing."""
    return model not in TRAINED or part.run.has(TRAINED[model].product)


def answer(part: Part, model: str, progress: Progress) -> Answer:
    """The model's answer, read back where it is there already."""
    product, key = f"answers/{_file_name(model)}", answer_key(part, model)
    if not part.run.is_current(product, key):
        _write(part, model, product, key, progress)
    about = part.run.manifest(product)
    table = storage.read_parquet(part.run.path(product, "test.parquet"))
    return Answer(
        table["sample_id"].to_pylist(), matrix(table["scores"]), about["threshold"], about["seconds_per_sample"]
    )


def answer_key(part: Part, model: str) -> str:
    """A digest of everything that decides a model's answers."""
    teacher = part.config.teacher
    reading = (part.config.prompt, teacher.backbone, teacher.depth, teacher.pooling, part.config.features.dtype)
    made_from = (part.run.manifest(TRAINED[model].product)["id"],) if model in TRAINED else reading
    return fingerprint(model, part.data.fingerprint, part.config.evaluate.threshold_metric, *made_from)


def _file_name(model: str) -> str:
    return model.replace(":", ".")


def _write(part: Part, model: str, product: str, key: str, progress: Progress) -> None:
    require_same_data(part, model)
    scores, seconds_per_sample = (_trained_scores if model in TRAINED else _baseline_scores)(part, model)
    threshold = metrics.best_threshold(
        label_matrix(part.data, "validation"), scores["validation"], part.config.evaluate.threshold_metric
    )
    labels = label_matrix(part.data, "test")
    prauc = float(np.nanmean(metrics.average_precision(labels, scores["test"])))
    progress.log(f"  {part.name}: {model} has test PRAUC {prauc:.4f}")
    about = {"threshold": threshold, "seconds_per_sample": seconds_per_sample}
    with part.run.product(product, key, part.config, about) as directory:
        for split in _SPLITS:
            sample_ids = part.data.samples(split, ["sample_id"])["sample_id"]
            table = pa.table({"sample_id": sample_ids, "scores": list_column(scores[split])})
            storage.write_parquet(storage.join(directory, f"{split}.parquet"), table)


def require_same_data(part: Part, model: str) -> None:
    """Refuse a model made from another data set: its training patients may be in this one's test split."""
    if model not in TRAINED:
        return
    product = TRAINED[model].product
    if part.run.manifest(product).get("data") != part.data.fingerprint:
        raise UserError(
            f"{part.run.path(product)} was made from another data set than {part.data.uri}; train it again."
        )


def _trained_scores(part: Part, model: str) -> tuple[Mapping[str, np.ndarray], float | None]:
    """A trained model's probabilities by split, and the seconds it takes for one sample where they were measured."""
    if model == "teacher":
        scores = {split: probabilities(read_features(part.run, part.data, split, "logits")) for split in _SPLITS}
        return scores, part.run.manifest(FEATURES)["seconds_per_sample"]
    predictor = StudentPredictor.load(part.run.uri, TRAINED[model].product)
    return _timed(predictor.predict, part.data)


def _baseline_scores(part: Part, model: str) -> tuple[Mapping[str, np.ndarray], float]:
    """A baseline's probabilities by split after it was fitted, and the seconds it takes for one sample."""
    fitted = baselines.load(model)(Knowledge.read(part.data.uri), part.config).fit(
        *(_examples(part.data, split) for split in ("train", "validation"))
    )
    return _timed(fitted.predict_proba, part.data)


def _timed(
    predict: Callable[[Sequence[PatientRecord]], np.ndarray], data: PreparedData
) -> tuple[Mapping[str, np.ndarray], float]:
    records = {split: _records(data, split) for split in _SPLITS}
    predict(records["test"][:1])  # what is loaded or compiled at the first call is no cost of an answer
    started, scores = time.monotonic(), {}
    for split, of_split in records.items():
        batches = [of_split[start : start + _BATCH] for start in range(0, len(of_split), _BATCH)]
        scores[split] = np.concatenate([predict(batch) for batch in batches]).astype(np.float32)
    num_samples = sum(len(of_split) for of_split in records.values())
    return scores, (time.monotonic() - started) / num_samples


def _records(data: PreparedData, split: str) -> list[PatientRecord]:
    return [PatientRecord.from_sample(row) for row in data.samples(split).to_pylist()]


def _examples(data: PreparedData, split: str) -> baselines.Examples:
    return baselines.Examples(_records(data, split), label_matrix(data, split))

"""Stage `evaluate`: the paper's metrics on the test split, for every model that the run has and for popularity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from leader_platform import metrics, storage
from leader_platform.artifacts import EVALUATION, FEATURES, STUDENT, STUDENT_ALONE, Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.interactions import between_classes, interaction_matrix
from leader_platform.data.records import PatientRecord
from leader_platform.errors import UserError
from leader_platform.features import label_matrix, probabilities, read_features
from leader_platform.predict import StudentPredictor

METRICS_FILE = "metrics.json"

# A model's scores for a split: float [samples, medications].
Scorer = Callable[[str], np.ndarray]


def evaluate(
    data: PreparedData, run: Run, config: LeaderConfig, key: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write `evaluation/metrics.json` and return it.

    Thresholds are tuned on validation samples alone, one a model; the prescriptions' own interaction rate and number
    of medications stand beside the models', since a recommender can only be judged against what doctors did.
    """
    _require_same_data(data, run)
    labels = {split: label_matrix(data, split) for split in ("validation", "test")}
    interacting = interaction_matrix(data.interactions, data.vocabulary.medications)
    groups = _groups(data)
    models: dict[str, Any] = {}
    for name, scorer in _scorers(data, run).items():
        threshold = metrics.best_threshold(labels["validation"], scorer("validation"), config.evaluate.threshold_metric)
        scores = scorer("test")
        of_group = {
            group: metrics.report(labels["test"][rows], scores[rows], threshold, interacting)
            for group, rows in groups.items()
        }
        models[name] = {"threshold": threshold, "groups": of_group}
        say(f"  {name}: PRAUC {of_group['all']['prauc']:.4f}")
    result = {
        "label_window": data.manifest["label_window"],
        "split": "test",
        "threshold_metric": config.evaluate.threshold_metric,
        "interaction_source": sorted(set(between_classes(data.interactions)["source"].to_pylist())),
        "prescriptions": _prescriptions(labels["test"], interacting),
        "models": models,
    }
    with run.product(EVALUATION, key, config, {"models": sorted(models)}) as directory:
        storage.write_json(storage.join(directory, METRICS_FILE), result)
    return result


def _require_same_data(data: PreparedData, run: Run) -> None:
    """Refuse models made from another data set: their training patients may be in this one's test split."""
    for stage in (STUDENT_ALONE, STUDENT, FEATURES):
        if run.has(stage) and run.manifest(stage).get("data") != data.fingerprint:
            raise UserError(f"{run.path(stage)} was made from another data set than {data.uri}; train it again.")


def _scorers(data: PreparedData, run: Run) -> dict[str, Scorer]:
    """Every model that the run has, popularity first; each is read when it is asked."""
    scorers: dict[str, Scorer] = {"popularity": lambda split: _popularity(data, split)}
    if run.has(STUDENT_ALONE):
        scorers["student without teacher"] = lambda split: _student(data, run, STUDENT_ALONE, split)
    if run.has(STUDENT):
        scorers["student"] = lambda split: _student(data, run, STUDENT, split)
    if run.has(FEATURES):
        scorers["teacher"] = lambda split: probabilities(read_features(run, data, split, "logits"))
    return scorers


def _popularity(data: PreparedData, split: str) -> np.ndarray:
    """Each medication's share of training samples, for every sample alike."""
    return np.tile(label_matrix(data, "train").mean(axis=0), (len(data.samples(split, ["sample_id"])), 1))


def _student(data: PreparedData, run: Run, stage: str, split: str) -> np.ndarray:
    predictor = StudentPredictor.load(run.uri, stage)
    scores = [
        predictor.predict([PatientRecord.from_sample(row) for row in batch.to_pylist()])
        for batch in data.samples(split).to_batches(max_chunksize=256)
    ]
    return np.concatenate(scores)


def _groups(data: PreparedData) -> dict[str, np.ndarray]:
    first = data.samples("test", ["prior_visits"])["prior_visits"].to_numpy() == 0
    return {"all": np.ones(len(first), dtype=bool), "first-visit": first, "multi-visit": ~first}


def _prescriptions(labels: np.ndarray, interacting: np.ndarray) -> dict[str, float | None]:
    return {
        "interaction_rate": metrics.interaction_rate(labels, interacting),
        "medications_per_visit": float(labels.sum(axis=1).mean()),
    }

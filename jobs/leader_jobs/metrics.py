"""How stages go, as metrics that Ray exports beside its own; Prometheus reads them on every node."""

from __future__ import annotations

from typing import Any

# By what a worker tells of itself: the metric's description.
_TOLD = {
    "step": "Optimiser steps taken.",
    "epoch": "Epochs trained.",
    "loss": "Training loss, as last told.",
    "validation_prauc": "PRAUC on the validation patients, as last told.",
    "tokens_per_second": "Tokens that a training step reads in a second.",
    "samples_per_second": "Samples that a training step reads in a second.",
    "peak_memory_gb": "Most memory that a worker's process had, GB.",
}


class TrainingMetrics:
    """A stage's last words as gauges, told apart by `stage`; each exists from when it is first told."""

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Gauge

        tags = ("stage",)
        self._gauges = {name: Gauge(f"leader_training_{name}", text, tags) for name, text in _TOLD.items()}
        self._tags = {"stage": stage}

    def told(self, values: dict[str, Any]) -> None:
        for name in values.keys() & self._gauges.keys():
            self._gauges[name].set(float(values[name]), self._tags)


class FeatureMetrics:
    """Rows that the features stage has written, and how many are left."""

    def __init__(self, total: int) -> None:
        from ray.util.metrics import Counter, Gauge

        self._rows = Counter("leader_features_rows", "Samples that the teacher has read.")
        self._left = Gauge("leader_features_rows_left", "Samples that the teacher has still to read.")
        self._num_left = total
        self._left.set(total)

    def written(self, number: int) -> None:
        self._rows.inc(number)
        self._num_left -= number
        self._left.set(self._num_left)

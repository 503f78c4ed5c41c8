"""Runs on disk, with what `leader runs` reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from leader_platform import storage
from leader_platform.artifacts import EVALUATION, Run
from leader_platform.config import LeaderConfig

PROTOCOL = {"name": "cross-validation", "folds": 5, "seeds": [0], "bootstrap_replicates": 200, "data": "0123"}


def make_run(folder: Path, *stages: str, config: LeaderConfig | None = None) -> Run:
    """A run with some products that hold nothing."""
    run = Run(str(folder))
    for stage in stages:
        with run.product(stage, "key", config or LeaderConfig(), {}):
            pass
    return run


def result(prauc: float, **protocol: Any) -> dict[str, Any]:
    """Two models; intervals reach 0.125 to both sides."""
    interval = [prauc, prauc - 0.125, prauc + 0.125]
    student = {"samples": 4, "patients": 3, "prauc": interval, "jaccard": [0.5, 0.25, 0.75], "f1": None}
    popularity = {"samples": 4, "patients": 3, "prauc": [0.25, 0.125, 0.5]}
    return {"protocol": PROTOCOL | protocol, "models": {"popularity": {"all": popularity}, "student": {"all": student}}}


def samples(prauc: list[float], model: str = "student") -> pa.Table:
    """Four samples of three patients; Jaccard and F1 are halves of PRAUC."""
    rows = {"sample_id": ["1-1", "1-2", "2-1", "3-1"], "subject_id": [1, 1, 2, 3], "model": [model] * 4}
    return pa.table(rows | {"prauc": prauc, "jaccard": [v / 2 for v in prauc], "f1": [v / 2 for v in prauc]})


def evaluate(
    run: Run, result: dict[str, Any], samples: pa.Table | None = None, config: LeaderConfig | None = None
) -> Run:
    """Give the run an evaluation."""
    with run.product(EVALUATION, "key", config or LeaderConfig(), {}) as directory:
        storage.write_json(storage.join(directory, "metrics.json"), result)
        if samples is not None:
            storage.write_parquet(storage.join(directory, "samples.parquet"), samples)
    return run

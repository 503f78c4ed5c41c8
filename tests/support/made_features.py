"""A run with features that no teacher made, for tests of what comes after them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leader_jobs import pipeline
from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.samples import SPLITS
from leader_platform.features import feature_table, label_matrix


def run_with_features(directory: Path, data: PreparedData, config: LeaderConfig) -> Run:
    """A run whose teacher's states are its samples' labels, so that there is something to distill."""
    run = Run(str(directory))
    with run.product("teacher", pipeline.stage_key("teacher", data, config), config, {}):
        pass
    key = pipeline.stage_key("features", data, config)
    with run.product("features", key, config, {}, ("teacher",)) as features:
        for split in SPLITS:
            states, first = label_matrix(data, split).astype(np.float32), 0
            for part in data.sample_parts(split):
                ids = storage.read_parquet(part, ["sample_id"])["sample_id"].to_pylist()
                of_part = states[first : first + len(ids)]
                first += len(ids)
                storage.write_parquet(
                    storage.join(features, split, Path(part).name), feature_table(ids, of_part, of_part)
                )
    return run

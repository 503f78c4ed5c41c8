"""Stage `titles`: what the untuned language model makes of each code's title, for the student's code book.

    titles of the data set --tokenise, batches by length--> mean states of a middle layer --> titles/

The states of a middle layer carry more of what a diagnosis is than the last layer's, which are turned to the next word:
ridge on their sums alone reaches PRAUC 0.664 on the MIMIC-IV demo, on the last layer's 0.653, on a layer at two thirds
0.616.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from leader_jobs.placement import require_room, worker_bundle
from leader_jobs.precision import resolve_precision
from leader_jobs.reports import counted
from leader_platform import storage
from leader_platform.artifacts import TITLES, Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.prompts import title_of
from leader_platform.data.records import KINDS
from leader_platform.models.memory import explain_out_of_memory, titles_advice
from leader_platform.models.title_states import READINGS_FILE, read_titles, readings_table
from leader_platform.preload import preload_environment
from leader_platform.progress import Progress


def read_code_titles(data: PreparedData, run: Run, config: LeaderConfig, key: str, progress: Progress) -> None:
    """Write `titles/` for every code of the data set's visits and labels. Runs on the Ray that is connected."""
    import ray

    codes = _codes(data)
    texts = [title_of(code, data.titles) for code in codes]
    progress.log(f"Reading the titles of {len(codes)} codes with {config.teacher.backbone}")
    resources = config.resources
    bundle = worker_bundle(resources)
    require_room(bundle, 1, "Reading titles", resources.wait_for_nodes_s, progress)
    dtype = resolve_precision(config.features.dtype, "inference", bundle, progress)
    # In a process of its own, which ends with it and gives the language model's memory back.
    task = ray.remote(
        num_cpus=resources.cores,
        num_gpus=resources.gpus_of_one_process,
        max_calls=1,
        runtime_env={"env_vars": preload_environment()},
    )(read_titles)
    reading = (config.teacher.backbone, config.student.title_depth, dtype)
    with (
        explain_out_of_memory("Reading titles", titles_advice(resources.gpus_per_worker)),
        counted(progress, "Reading titles", len(codes), "codes") as count,
    ):
        states: np.ndarray = ray.get(task.remote(texts, *reading, resources.threads, count))
    about: dict[str, Any] = {
        "codes": len(codes),
        "backbone": config.teacher.backbone,
        "dtype": dtype,
        "data": data.fingerprint,
    }
    with run.product(TITLES, key, config, about) as directory:
        storage.write_parquet(storage.join(directory, READINGS_FILE), readings_table(codes, states))


def _codes(data: PreparedData) -> list[str]:
    """Every code of the visits, in alphabetical order."""
    found: set[str] = set(data.vocabulary.medications)
    for part in data.visit_parts():
        table = storage.read_parquet(part, list(KINDS))
        for kind in KINDS:
            found.update(pc.unique(pc.list_flatten(table[kind])).to_pylist())
    return sorted(found)

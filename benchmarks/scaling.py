"""What a second worker is worth: prepare, features and distill with one worker on one core, and two on two.

Usage: leader quickstart; python benchmarks/scaling.py [--home workspace/quickstart] [--patients 4000]

Each run is a process of its own that may use as many cores as it has workers. Prepare reads a synthetic cohort of so
many patients; features and distill work on the quickstart's data and teacher, an engine or a gloo worker a core. Rates
leave out what starts once, whatever the amount of work: Ray, the engine, the imports of workers. The last line is JSON:
rates by stage and workers, and the efficiency of the second worker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import deployment as bench
from leader_jobs import pipeline
from leader_jobs.prepare import PrepareArguments, prepare
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.synthetic import write_raw
from leader_platform.machine import usable_cores
from leader_platform.progress import SILENT
from leader_platform.ray_session import ray_session
from leader_platform.recipes import quickstart
from leader_platform.settings import with_values

WORKERS = (1, 2)
_EPOCHS = 12


def settings(workers: int) -> LeaderConfig:
    changes: dict[str, Any] = {
        # Small blocks, or one engine would have two of three.
        "features": {"concurrency": workers, "batch_size": 4},
        "student": {"num_workers": workers, "max_epochs": _EPOCHS, "patience": _EPOCHS},
        "resources": {"cpus_per_worker": 1},
    }
    return with_values(quickstart(), changes)


def prepare_rate(home: Path, folder: Path, workers: int) -> float:
    """Prescription rows a second, between a small cohort and a large one."""
    seconds, rows = [], []
    with ray_session(num_cpus=workers):
        for raw in ("small", "small", "large"):  # the first starts Ray Data's workers
            out, began = str(folder / f"data-{raw}-{workers}"), time.perf_counter()
            prepare(PrepareArguments("mimic4", str(folder / raw), out), settings(workers), SILENT)
            seconds.append(time.perf_counter() - began)
            rows.append(PreparedData(out).manifest["coverage"]["prescription_rows"])
    return (rows[2] - rows[1]) / (seconds[2] - seconds[1])


def features_rate(home: Path, folder: Path, workers: int) -> float:
    """Samples a second, between a tenth of the samples and all of them."""
    everything, run = _run_of(home, folder, workers, ("teacher",))
    seconds, samples = [], []
    for data in (_tenth_of(everything, folder / f"tenth-{workers}"), everything):
        began = time.perf_counter()
        with ray_session(num_cpus=workers):
            pipeline.run_stage("features", data, run, settings(workers), False, SILENT)
        seconds.append(time.perf_counter() - began)
        samples.append(run.manifest("features")["samples"])
    return (samples[1] - samples[0]) / (seconds[1] - seconds[0])


def _tenth_of(data: PreparedData, folder: Path) -> PreparedData:
    """A copy of the data set with the first tenth of each file's samples."""
    shutil.copytree(data.uri, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for split, about in manifest["splits"].items():
        about["samples"] = 0
        for part in (folder / "samples" / split).glob("*.parquet"):
            rows = pq.read_table(part)
            first = rows.slice(0, len(rows) // 10)
            pq.write_table(first, part)
            about["samples"] += len(first)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return PreparedData(str(folder))


def distill_rate(home: Path, folder: Path, workers: int) -> float:
    """Samples a second over the workers' epochs, validation included."""
    data, run = _run_of(home, folder, workers, ("teacher", "features", "titles"))
    with ray_session(num_cpus=workers):
        pipeline.run_stage("distill", data, run, settings(workers), False, SILENT)
    manifest = run.manifest("student")
    epochs = max(told["epoch"] for told in manifest["training"] if "epoch" in told)
    return data.manifest["splits"]["train"]["samples"] * epochs / float(manifest["seconds"])


def _run_of(home: Path, folder: Path, workers: int, products: tuple[str, ...]) -> tuple[PreparedData, Run]:
    """A run that has these products of the quickstart's, and what was made anew in it."""
    run = Run(str(folder / f"run-{workers}"))
    Path(run.uri).mkdir(exist_ok=True)
    for product in products:
        link = Path(run.path(product))
        if not link.exists():
            link.symlink_to((home / "runs/default" / product).resolve())
    return PreparedData(str(home / "data")), run


STAGES: dict[str, Callable[[Path, Path, int], float]] = {
    "prepare": prepare_rate,
    "features": features_rate,
    "distill": distill_rate,
}


def measure(stage: str, home: Path, workers: int, folder: Path) -> float:
    """In a process of its own, bound to as many cores as there are workers."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    command = [sys.executable, __file__, "--home", str(home), "--stage", stage, str(workers), str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if answer.returncode:
        sys.exit(f"{stage} with {workers} workers failed:\n{answer.stderr[-3000:]}")
    return float(answer.stdout.splitlines()[-1])


def compare(home: Path, patients: int) -> None:
    bench.require_run(home)
    if usable_cores() < max(WORKERS):
        sys.exit(f"This process may use fewer than {max(WORKERS)} cores.")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for raw, number in (("small", patients // 10), ("large", patients)):
            write_raw("mimic4", folder / raw, number, seed=1)
        print(f"{'stage':<10}{'one':>12}{'two':>12}{'efficiency':>12}", flush=True)
        for stage in STAGES:
            one, two = (measure(stage, home, workers, folder) for workers in WORKERS)
            found[stage] = {"1": round(one, 1), "2": round(two, 1), "efficiency": round(two / one / 2, 2)}
            print(f"{stage:<10}{one:>12.1f}{two:>12.1f}{two / one / 2:>12.2f}", flush=True)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("workspace/quickstart"))
    parser.add_argument("--patients", type=int, default=4000, help="of the cohort that is prepared")
    parser.add_argument("--stage", nargs=3, metavar=("NAME", "WORKERS", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage, workers, folder = arguments.stage
        print(STAGES[stage](arguments.home, Path(folder), int(workers)))
    else:
        compare(arguments.home, arguments.patients)


if __name__ == "__main__":
    main()

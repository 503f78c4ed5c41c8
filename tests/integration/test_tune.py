"""A search by Ray Tune on features that were made up: what it writes, and that a killed one ends as an undisturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.made_features import run_with_features

from leader_jobs import pipeline
from leader_jobs.requests import Request
from leader_jobs.tune import RECIPE_FILE, TRIALS_FILE, tune_student
from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.progress import SILENT, LineProgress
from leader_platform.settings import load_config

pytestmark = pytest.mark.slow

NUM_TRIALS = 3


@pytest.fixture(scope="module")
def search(config: LeaderConfig) -> LeaderConfig:
    """Without titles, which a language model would have to read."""
    settings = ["student.max_epochs=6", "student.checkpoint_epochs=2", "student.title_states=false"]
    return load_config(config, None, [*settings, "tune.grace_epochs=2"])


@pytest.fixture(scope="module")
def undisturbed(data: PreparedData, search: LeaderConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = run_with_features(tmp_path_factory.mktemp("tuned"), data, search)
    said: list[str] = []
    tune_student(data, run, search, NUM_TRIALS, LineProgress(said.append), resume=False, only=True)
    assert [line for line in said if f"of {NUM_TRIALS}: " in line], said
    return run


def test_a_search_leaves_a_recipe_and_a_table(undisturbed: Run, search: LeaderConfig) -> None:
    rows = storage.read_parquet(undisturbed.path("tune", TRIALS_FILE)).to_pylist()
    assert [row["trial"] for row in rows] == [1, 2, 3]
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    assert all(2 <= row["epochs"] <= 6 and row["seconds"] > 0 and 0 < row["best_prauc"] <= 1 for row in rows)
    best = max(rows, key=lambda row: row["best_prauc"])
    chosen = load_config(LeaderConfig(), undisturbed.path("tune", RECIPE_FILE))
    assert chosen.student.learning_rate == pytest.approx(best["learning_rate"])
    assert chosen.student.width == best["width"]
    assert chosen.model_copy(update={"student": search.student}) == search
    assert undisturbed.manifest("tune")["best"] == best
    assert not storage.list_files(undisturbed.path("training"), "", recursive=True)


def test_training_with_the_recipe_gives_the_prauc_that_the_search_saw(undisturbed: Run, data: PreparedData) -> None:
    chosen = load_config(LeaderConfig(), undisturbed.path("tune", RECIPE_FILE))
    assert pipeline.train("distill", data, undisturbed, chosen, SILENT) == ["distill"]
    trained = storage.read_json(undisturbed.path("student", "config.json"))
    assert trained["validation_prauc"] == pytest.approx(undisturbed.manifest("tune")["best"]["best_prauc"], abs=1e-5)


def test_a_killed_search_goes_on_and_ends_as_an_undisturbed_one(
    undisturbed: Run, data: PreparedData, search: LeaderConfig, tmp_path: Path
) -> None:
    run = run_with_features(tmp_path, data, search)
    request = Request(kind="tune", config=search, data=data.uri, run=run.uri, trials=NUM_TRIALS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "leader_jobs", request.model_dump_json()],
        start_new_session=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    next(line for line in process.stdout if f"of {NUM_TRIALS}: " in line)
    its_ray = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(its_ray, timeout=60)
    assert alive == []
    assert not storage.exists(run.path("tune"))

    tune_student(data, run, search, NUM_TRIALS, SILENT, resume=True, only=True)
    expected, actual = (storage.read_parquet(made.path("tune", TRIALS_FILE)).to_pylist() for made in (undisturbed, run))
    # Which trials ASHA ends depends on which are first; those that ended by themselves are the same.
    for one, other in zip(expected, actual, strict=True):
        if one["status"] == other["status"] == "finished":
            assert other["best_prauc"] == pytest.approx(one["best_prauc"], abs=1e-5)
        assert other["failure"] == ""

"""Teacher, features, student and evaluation through Ray Train and Ray Data, on a tiny language model."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.folders import odd_folder
from support.kills import kill_at

from leader_jobs import pipeline
from leader_jobs.evaluate import evaluate
from leader_jobs.placement import require_room
from leader_jobs.requests import Request
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.records import PatientRecord
from leader_platform.data.samples import SPLITS
from leader_platform.errors import UserError
from leader_platform.features import read_features
from leader_platform.models.teacher import load_head
from leader_platform.predict import StudentPredictor, TeacherPredictor
from leader_platform.progress import SILENT, LineProgress
from leader_platform.settings import load_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lines() -> list[tuple[float, str]]:
    """What the stages of `run` wrote, and when."""
    return []


@pytest.fixture(scope="module")
def run(
    data: PreparedData, config: LeaderConfig, tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[float, str]]
) -> Run:
    """A run with every stage done."""
    run = Run(str(odd_folder(tmp_path_factory.mktemp("run"))))
    lines.append((time.monotonic(), "begun"))
    progress = LineProgress(lambda line: lines.append((time.monotonic(), line)), every_s=2.0)
    assert pipeline.train("all", data, run, config, progress) == ["teacher", "features", "titles", "distill"]
    pipeline.train("student", data, run, config, progress)
    lines.append((time.monotonic(), "done"))
    assert [status.name for status in progress.ended if status.name.startswith("Stage ")] == [
        f"Stage {name}" for name in ("teacher", "features", "titles", "distill", "student")
    ]
    return run


def test_no_stage_is_silent(run: Run, lines: list[tuple[float, str]]) -> None:
    times = [at for at, _ in lines]
    # A few seconds may pass in libraries that hold Python's lock while they are imported.
    assert max(np.diff(times)) < 2.0 + 4.0, lines
    written = "\n".join(line for _, line in lines)
    assert "Stage teacher: " in written
    assert "LoRA: 12 steps in " in written
    assert "Reading titles: " in written


def test_the_teacher_learns_and_exports_what_it_learnt(run: Run, data: PreparedData, config: LeaderConfig) -> None:
    told = [line for line in run.manifest("teacher")["training"] if "loss" in line]
    assert [line["step"] for line in told] == list(range(1, 13))
    assert told[-1]["loss"] < told[0]["loss"] - 0.1
    # The merged export must say what adapter and head say apart; the features were made from the merged one.
    import torch
    from peft import PeftModel

    from leader_platform.models.backbone import load_causal_lm, load_tokenizer
    from leader_platform.models.teacher import pad_tokens, pooled_states

    decoder = load_causal_lm(config.teacher.backbone, torch.float32, config.teacher.depth).get_decoder()
    tuned = PeftModel.from_pretrained(decoder, run.path("teacher", "adapter")).eval()
    assert any(weight.abs().sum() > 0 for name, weight in tuned.named_parameters() if "lora_B" in name)
    rows = data.samples("test").to_pylist()
    prompts, records = [row["prompt"] for row in rows], [PatientRecord.from_sample(row) for row in rows]
    tokens = [load_tokenizer(config.teacher.backbone)(prompt).input_ids for prompt in prompts]
    fitting = [index for index, ids in enumerate(tokens) if len(ids) <= config.prompt.max_tokens]
    assert fitting
    with torch.inference_mode():
        states = pooled_states(tuned, *pad_tokens([tokens[index] for index in fitting], 0), config.teacher.pooling)
    previous = [data.vocabulary.previous_labels(records[index]) for index in fitting]
    logits = load_head(run.path("teacher")).logits(states.numpy(), previous)
    np.testing.assert_allclose(read_features(run, data, "test", "hidden_state")[fitting], states, atol=2e-5)
    np.testing.assert_allclose(read_features(run, data, "test", "logits")[fitting], logits, atol=2e-5)


def test_every_sample_has_one_feature_in_its_place(run: Run, data: PreparedData) -> None:
    import pyarrow.parquet as pq

    for split in SPLITS:
        for part in data.sample_parts(split):
            features = pq.read_table(run.path("features", split, Path(part).name), columns=["sample_id"])
            assert features["sample_id"].equals(pq.read_table(part, columns=["sample_id"])["sample_id"])


def test_features_of_a_killed_run_are_finished_and_not_doubled(
    run: Run, data: PreparedData, config: LeaderConfig, tmp_path: Path
) -> None:
    killed = Run(str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    os.symlink(run.path("teacher"), killed.path("teacher"))
    slow = load_config(config, None, ["features.batch_size=1"])
    request = Request(kind="train", stage="features", config=slow, data=data.uri, run=killed.uri)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "leader_jobs", request.model_dump_json()],
        start_new_session=True,
        env=environment,
        # On one core, where stages that asked for more than it would wait for each other for ever.
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    wait_until(lambda: len(chunk_files(killed)) >= 3)
    its_ray = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Workers live some seconds longer than the process that they work for, and may finish a chunk meanwhile.
    _, alive = psutil.wait_procs(its_ray, timeout=60)
    assert alive == []
    finished = chunk_files(killed)
    total = sum(data.manifest["splits"][split]["samples"] for split in SPLITS)
    assert 0 < len(finished) < total, "the process was not killed halfway"

    said: list[str] = []
    assert pipeline.train("features", data, killed, slow, LineProgress(said.append)) == ["features"]
    assert any(f"({len(finished)} of them already there)" in line for line in said)
    for split in SPLITS:
        expected = read_features(run, data, split, "hidden_state")
        np.testing.assert_allclose(read_features(killed, data, split, "hidden_state"), expected, atol=2e-5)
    assert chunk_files(killed) == []


def test_a_killed_worker_changes_nothing(data: PreparedData, config: LeaderConfig, tmp_path: Path) -> None:
    """A worker killed between checkpoints goes on from the last one and ends with an undisturbed run's weights."""
    long = load_config(config, None, ["teacher.max_steps=60", "teacher.max_epochs=9", "teacher.checkpoint_steps=10"])
    undisturbed, disturbed = Run(str(tmp_path / "a")), Run(str(tmp_path / "b"))
    pipeline.train("teacher", data, undisturbed, long, SILENT)
    kill_once, kills = kill_at("step 25")
    pipeline.train("teacher", data, disturbed, long, kill_once)
    assert len(kills) == 1
    steps = [line["step"] for line in disturbed.manifest("teacher")["training"] if "loss" in line]
    assert steps.count(25) == 2 or steps.count(24) == 2, f"no step was done again: {steps}"
    heads = [load_head(run.path("teacher")).weight.numpy() for run in (undisturbed, disturbed)]
    np.testing.assert_allclose(heads[1], heads[0], atol=1e-6)


def test_the_student_is_what_evaluation_and_serving_load(run: Run, data: PreparedData) -> None:
    student = StudentPredictor.load(run.uri)
    records = [PatientRecord.from_sample(row) for row in data.samples("test").to_pylist()]
    scores = student.predict(records)
    assert scores.shape == (len(records), len(data.vocabulary.medications))
    np.testing.assert_allclose(student.predict(records[:1]), scores[:1], atol=1e-5)
    assert 0 < student.threshold < 1
    assert student.medications == data.vocabulary.medications
    assert run.manifest("student")["with_teacher"] is True
    assert run.manifest("student_alone")["with_teacher"] is False
    alone = StudentPredictor.load(run.uri, "student_alone").predict(records)
    assert np.abs(alone - scores).max() > 1e-4, "the teacher made no difference"


def test_the_teacher_predicts_what_its_features_say(run: Run, data: PreparedData) -> None:
    teacher = TeacherPredictor.load(run.uri, "transformers", "float32")
    records = [PatientRecord.from_sample(row) for row in data.samples("test").to_pylist()]
    scores, _ = asyncio.run(teacher.predict(records))
    logits = read_features(run, data, "test", "logits")
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert teacher.threshold == run.manifest("features")["threshold"]


def test_evaluation_covers_models_and_groups(run: Run, data: PreparedData, config: LeaderConfig) -> None:
    result = evaluate(data, run, config, SILENT)
    assert set(result["models"]) == set(config.evaluate.models)
    for groups in result["models"].values():
        assert groups["all"]["samples"] == groups["first_visit"]["samples"] + groups["multi_visit"]["samples"]
        prauc, low, high = groups["all"]["prauc"]
        assert 0 < low <= prauc <= high <= 1
    assert result["prescriptions"]["all"]["medications_per_visit"][0] > 5
    written = run.manifest("evaluation")["id"]
    assert evaluate(data, run, config, SILENT) == result
    assert run.manifest("evaluation")["id"] == written, "what is current was judged again"


def test_what_is_current_is_not_made_again(run: Run, data: PreparedData, config: LeaderConfig) -> None:
    said: list[str] = []
    assert pipeline.train("all", data, run, config, LineProgress(said.append)) == []
    assert "Nothing to do" in said[0]
    narrower = load_config(config, None, ["student.width=32"])
    assert pipeline.plan("all", data, run, narrower, force=False, only=False) == ["distill"]


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_two_workers_train_one_model(data: PreparedData, config: LeaderConfig, tmp_path: Path, stage: str) -> None:
    """Gradients are averaged over both; of the teacher's frozen weights each holds a half."""
    shared = ["teacher.num_workers=2", "teacher.shard_backbone=true"]
    two = load_config(config, None, [*shared, "student.num_workers=2", "student.max_epochs=2"])
    run = Run(str(tmp_path))
    pipeline.train(stage, data, run, two, SILENT)
    product = "teacher" if stage == "teacher" else "student_alone"
    told = [line for line in run.manifest(product)["training"] if "loss" in line]
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.parametrize(
    ("stage", "setting", "told"),
    [
        ("student", "cpus_per_worker=64", "Training needs 1 x 64 CPU, and the cluster has one node with 2 CPU"),
        ("titles", "cpus_per_worker=64", "Reading titles needs 1 x 64 CPU"),
        ("teacher", "gpus_per_worker=1", "Tuning needs 1 x 1 CPU and 1 GPU, .* one node with 2 CPU and 0 GPU"),
        ("features", "gpus_per_worker=1", "Reading with the teacher needs 1 x 0.5 CPU and 1 GPU"),
    ],
)
def test_more_than_the_cluster_has_is_refused(
    run: Run, data: PreparedData, config: LeaderConfig, tmp_path: Path, stage: str, setting: str, told: str
) -> None:
    """Ray would wait for it without end."""
    own = Run(str(tmp_path / "run"))
    if stage == "features":
        shutil.copytree(run.path("teacher"), own.path("teacher"))
    greedy = load_config(config, None, [f"resources.{setting}"])
    with pytest.raises(UserError, match=told):
        pipeline.train(stage, data, own, greedy, SILENT)


def test_nodes_are_waited_for_where_a_cluster_grows(ray_local: None) -> None:
    said: list[str] = []
    with pytest.raises(UserError, match=r"has after 1 s one node with 2 CPU"):
        require_room({"CPU": 3.0}, 1, "Training", 1.0, LineProgress(said.append))
    assert said == ["Waiting up to 1 s for nodes with 1 x 3 CPU."]


def chunk_files(run: Run) -> list[Path]:
    return [path for path in Path(run.path("training")).rglob("*.parquet") if path.is_file()]


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)

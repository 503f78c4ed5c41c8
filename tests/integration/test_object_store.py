"""Every stage with its data set and its run in object storage: a real S3 server, spoken to by `pyarrow.fs`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from leader_jobs import pipeline
from leader_jobs.evaluate import evaluate
from leader_jobs.prepare import PrepareArguments, prepare
from leader_jobs.tune import RECIPE_FILE, tune_student
from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.records import PatientRecord
from leader_platform.features import read_features
from leader_platform.predict import StudentPredictor, TeacherPredictor
from leader_platform.progress import LineProgress
from leader_platform.settings import load_config

pytestmark = pytest.mark.slow


def test_every_stage_reads_and_writes_it(ray_local: None, object_store: str, raw: Path, config: LeaderConfig) -> None:
    file_system, bucket = storage.filesystem(object_store)
    pafs.copy_files(str(raw), f"{bucket}/raw", destination_filesystem=file_system)

    prepare(PrepareArguments("mimic4", f"{object_store}/raw", f"{object_store}/data"), config, LineProgress(print))
    data, run = PreparedData(f"{object_store}/data"), Run(f"{object_store}/run")
    short = load_config(config, None, ["teacher.max_steps=4", "teacher.checkpoint_steps=2", "student.max_epochs=3"])
    assert pipeline.train("all", data, run, short, LineProgress(print)) == ["teacher", "features", "titles", "distill"]
    assert pipeline.train("student", data, run, short, LineProgress(print)) == ["student"]
    search = load_config(short, None, ["tune.grace_epochs=1"])
    tune_student(data, run, search, 2, LineProgress(print), resume=False, only=True)
    assert load_config(LeaderConfig(), run.path("tune", RECIPE_FILE)).student.max_epochs == 3
    judged = evaluate(data, run, short, LineProgress(print))
    assert {"student", "teacher"} <= set(judged["models"])
    assert pipeline.train("all", data, run, short, LineProgress(print)) == [], "what is there is current"

    records = [PatientRecord.from_sample(row) for row in data.samples("test").to_pylist()]
    assert StudentPredictor.load(run.uri).predict(records).shape == (len(records), len(data.vocabulary.medications))
    scores, _ = asyncio.run(TeacherPredictor.load(run.uri, "transformers", "float32").predict(records))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-read_features(run, data, "test", "logits"))), atol=1e-5)

    assert not storage.list_files(run.path("training"), recursive=True), "scratch is left"
    assert not list(Path(tempfile.gettempdir()).glob("leader-*/model-*")), "copies of the model are left"

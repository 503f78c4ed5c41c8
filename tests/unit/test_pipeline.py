"""Which stages run, in which order, and why; what a job is asked and how it tells a failure. No Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.patients import write_hosp

from leader_jobs import __main__ as job
from leader_jobs import pipeline
from leader_jobs.evaluate import evaluate
from leader_jobs.pipeline import STAGES, plan, stage_key
from leader_jobs.prepare import PrepareArguments, check
from leader_jobs.requests import Request
from leader_platform import storage
from leader_platform.artifacts import FEATURES, STUDENT, TEACHER, Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import FORMAT_VERSION, PreparedData
from leader_platform.errors import UserError
from leader_platform.progress import LineProgress
from leader_platform.settings import load_config

DEFAULT = LeaderConfig()
ALL = ["teacher", "features", "titles", "distill"]


def with_settings(*overrides: str) -> LeaderConfig:
    return load_config(DEFAULT, None, overrides)


def prepared(directory: Path, fingerprint: str = "f1") -> PreparedData:
    described = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "flow": {}}
    storage.write_json(str(directory / "manifest.json"), described)
    return PreparedData(str(directory))


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return prepared(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "run"))


def make(run: Run, data: PreparedData, *names: str, config: LeaderConfig = DEFAULT) -> None:
    for name in names:
        with run.product(STAGES[name].product, stage_key(name, data, config), config, {}):
            pass


def steps(wanted: str, data: PreparedData, run: Run, config: LeaderConfig = DEFAULT, **options: bool) -> list[str]:
    return plan(wanted, data, run, config, **{"force": False, "only": False, **options})


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("teacher", ["teacher"]),
        ("features", ["teacher", "features"]),
        ("titles", ["titles"]),
        ("distill", ALL),
        ("all", ALL),
        ("student", ["student"]),
    ],
)
def test_missing_needs_come_first(data: PreparedData, run: Run, wanted: str, expected: list[str]) -> None:
    assert steps(wanted, data, run) == expected


def test_current_stages_are_not_run_again(data: PreparedData, run: Run) -> None:
    make(run, data, "teacher", "features")
    assert steps("distill", data, run) == ["titles", "distill"]
    make(run, data, "titles")
    assert steps("distill", data, run) == ["distill"]
    make(run, data, "distill")
    assert steps("all", data, run) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("teacher.lora_rank=4", ["teacher", "features", "distill"]),
        ("teacher.backbone=another", ALL),
        ("prompt.history_visits=1", ["teacher", "features", "distill"]),
        ("student.title_states=false", ["distill"]),
        ("features.dtype=float32", ["features", "titles", "distill"]),
        ("teacher.depth=0.5", ["teacher", "features", "distill"]),
        ("student.title_depth=0.5", ["titles", "distill"]),
        ("evaluate.threshold_metric=f1", ["features", "distill"]),
        ("student.width=32", ["distill"]),
        ("teacher.micro_batch_tokens=64", []),
        ("teacher.gradient_checkpointing=true", []),
        ("teacher.log_steps=1", []),
        ("teacher.checkpoint_steps=1", []),
        ("teacher.num_workers=2", ["teacher", "features", "distill"]),
        ("teacher.dtype=float32", ["teacher", "features", "distill"]),
        ("features.batch_size=1", []),
        ("features.kv_cache_gb=9", []),
        ("resources.gpus_per_worker=0.5", []),
        ("student.checkpoint_epochs=1", []),
        ("resources.cpus_per_worker=1", []),
        ("features.concurrency=2", []),
        ("serve.port=9000", []),
    ],
)
def test_a_setting_remakes_what_it_decides_and_all_downstream(
    data: PreparedData, run: Run, setting: str, expected: list[str]
) -> None:
    make(run, data, *ALL)
    assert steps("all", data, run, with_settings(setting)) == expected


def test_sharing_the_backbone_is_no_other_teacher(data: PreparedData) -> None:
    two = with_settings("teacher.num_workers=2")
    sharded = with_settings("teacher.num_workers=2", "teacher.shard_backbone=true")
    assert stage_key("teacher", data, two) == stage_key("teacher", data, sharded)


def test_other_data_remakes_everything(tmp_path: Path, data: PreparedData, run: Run) -> None:
    make(run, data, *ALL)
    assert steps("all", prepared(tmp_path / "other", "f2"), run) == ALL
    assert steps("all", prepared(tmp_path / "copy", "f1"), run) == []


def test_a_stage_is_remade_when_its_need_is(data: PreparedData, run: Run) -> None:
    make(run, data, *ALL)
    storage.remove(run.path("features"))
    assert steps("distill", data, run) == ["features", "distill"]


def test_force_runs_the_wanted_stage_alone(data: PreparedData, run: Run) -> None:
    make(run, data, *ALL)
    assert steps("distill", data, run, force=True) == ["distill"]
    assert steps("all", data, run, force=True) == ALL


def test_only_refuses_with_the_command_that_makes_the_need(data: PreparedData, run: Run) -> None:
    with pytest.raises(UserError) as caught:
        steps("distill", data, run, only=True)
    assert f"leader train --stage teacher --data {data.uri} --run {run.uri}" in str(caught.value)
    make(run, data, "teacher")
    with pytest.raises(UserError, match="leader train --stage features"):
        steps("distill", data, run, only=True)
    make(run, data, "features", "titles")
    assert steps("distill", data, run, only=True) == ["distill"]


def test_only_all_has_nothing_to_refuse(data: PreparedData, run: Run) -> None:
    assert steps("all", data, run, only=True) == ALL


def test_force_replaces_a_product_whose_manifest_is_damaged(data: PreparedData, run: Run) -> None:
    """The error for such a manifest says to run the stage again with --force."""
    make(run, data, "student")
    storage.write_bytes(run.path("student_alone", "manifest.json"), b"{")
    with pytest.raises(UserError, match="--force"):
        steps("student", data, run)
    assert steps("student", data, run, force=True) == ["student"]


def test_train_runs_the_plan_in_order_and_says_so(
    data: PreparedData, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(pipeline, "run_stage", lambda name, *_: ran.append(name))
    said: list[str] = []
    make(run, data, "teacher")
    steps = pipeline.train("all", data, run, DEFAULT, LineProgress(said.append))
    assert steps == ["features", "titles", "distill"] == ran
    assert said == ["Stages to run: features, titles, distill."]


def test_a_student_that_reads_no_titles_needs_none(data: PreparedData, run: Run) -> None:
    for setting in ("student.title_states=false", "student.wide=false"):
        assert steps("all", data, run, with_settings(setting)) == ["teacher", "features", "distill"]


def test_train_with_nothing_to_do_says_how_to_do_it_again(data: PreparedData, run: Run) -> None:
    said: list[str] = []
    make(run, data, "student")
    assert pipeline.train("student", data, run, DEFAULT, LineProgress(said.append)) == []
    assert "--force" in said[0]


# --- prepare's checks, requests, and a job's last line ---------------------------------------------------------------


def arguments(tmp_path: Path, **changes: Any) -> PrepareArguments:
    given = {"source": "mimic4", "raw": str(tmp_path / "raw"), "out": str(tmp_path / "out")}
    return PrepareArguments(**{**given, **changes})


def test_an_unknown_source_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'mimic5'.*mimic4"):
        check(arguments(tmp_path, source="mimic5"), DEFAULT)


def test_mimic3_cannot_be_split_by_time(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.split=time .* mimic3 .* data.split=random"):
        check(arguments(tmp_path, source="mimic3"), with_settings("data.split=time"))


def test_an_unusable_terminology_is_named_before_anything_runs(tmp_path: Path) -> None:
    write_hosp(tmp_path / "raw")
    with pytest.raises(UserError, match="mimic_drug_to_atc"):
        check(arguments(tmp_path, terminology=str(tmp_path)), DEFAULT)


@pytest.mark.parametrize("out", ["mimic/raw", "mimic/raw/hosp", "mimic"])
def test_the_raw_tables_are_not_written_over(tmp_path: Path, out: str) -> None:
    """A prepared data set takes the place of the whole directory `out`."""
    raw = write_hosp(tmp_path / "mimic" / "raw")
    with pytest.raises(UserError, match="out"):
        check(arguments(tmp_path, raw=str(raw), out=str(tmp_path / out)), DEFAULT)


def test_a_folder_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    write_hosp(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="out"):
        check(arguments(tmp_path), DEFAULT)


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    """It has a manifest of its own, beside models that took days."""
    write_hosp(tmp_path / "raw")
    with Run(str(tmp_path / "out")).product(TEACHER, "t", DEFAULT, {}):
        pass
    with pytest.raises(UserError, match="not a data set"):
        check(arguments(tmp_path), DEFAULT)


def test_the_raw_tables_are_known_by_another_path(tmp_path: Path) -> None:
    raw = write_hosp(tmp_path / "raw")
    (tmp_path / "link").symlink_to(raw)
    for out in (tmp_path / "link", tmp_path / "x" / ".." / "raw"):
        with pytest.raises(UserError, match="lie within each other"):
            check(arguments(tmp_path, out=str(out)), DEFAULT)


def test_a_prepared_data_set_and_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    write_hosp(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    check(arguments(tmp_path), DEFAULT)
    prepared(tmp_path / "out")
    assert set(check(arguments(tmp_path), DEFAULT)) >= {"patients", "admissions", "medications"}


def test_a_request_survives_json() -> None:
    request = Request(
        kind="train", config=with_settings("student.profile_fields=[age]"), data="/d", run="/r", force=True
    )
    assert Request.model_validate(json.loads(request.model_dump_json())) == request
    assert request.name == "leader train --stage all"


def test_a_failed_job_ends_with_its_sentence_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request(kind="prepare", config=DEFAULT, data=str(tmp_path / "out"), raw=str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "argv", ["leader_jobs", request.model_dump_json()])
    with pytest.raises(SystemExit) as ended:
        job.main()
    assert ended.value.code == 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("LEADER-ERROR 2 Table patients.csv.gz")
    assert not (tmp_path / "out").exists()


def test_what_was_made_from_a_replaced_product_is_stale(tmp_path: Path) -> None:
    """A teacher tuned again with the same settings is another teacher, and its features must be made again."""
    run, config = Run(str(tmp_path)), LeaderConfig()
    with run.product(TEACHER, "t", config, {}):
        pass
    with run.product(FEATURES, "f", config, {}, made_from=(TEACHER,)):
        pass
    assert run.is_current(FEATURES, "f")
    with run.product(TEACHER, "t", config, {}):
        pass
    assert run.is_current(TEACHER, "t")
    assert not run.is_current(FEATURES, "f")


def test_models_of_another_data_set_are_not_evaluated(tmp_path: Path, data: PreparedData) -> None:
    run = Run(str(tmp_path / "other"))
    with run.product(STUDENT, "s", LeaderConfig(), {"data": "another"}):
        pass
    with pytest.raises(UserError, match="made from another data set"):
        evaluate(data, run, with_settings("evaluate.models=[student]"), LineProgress(print))

"""Runs beside each other: what a list tells, and what two runs differ in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.runs import evaluate, make_run, result, samples

from leader_platform import runs, storage
from leader_platform.artifacts import EVALUATION, FEATURES, STUDENT, STUDENT_ALONE, TEACHER, Run
from leader_platform.config import EvaluateConfig, LeaderConfig, StudentConfig, TeacherConfig
from leader_platform.errors import UserError
from leader_platform.report import Difference
from leader_platform.runs_tables import comparison_tables, list_table

OLD_RESULT = {"label_window": "whole stay", "models": {"student": {"threshold": 0.3, "groups": {"all": {}}}}}


# --- a list ----------------------------------------------------------------------------------------------------------


def test_a_list_tells_stages_recipe_and_metrics_of_what_is_a_run(tmp_path: Path) -> None:
    evaluate(make_run(tmp_path / "b", TEACHER, STUDENT, config=LeaderConfig(recipe="quickstart")), result(0.5))
    make_run(tmp_path / "a", STUDENT_ALONE)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    told = {run.run: run for run in runs.summaries(str(tmp_path))}
    assert set(told) == {f"{tmp_path}/a", f"{tmp_path}/b"}
    first, second = told[f"{tmp_path}/a"], told[f"{tmp_path}/b"]
    assert (list(first.stages), first.recipe, first.metrics, first.remark) == ([STUDENT_ALONE], "default", {}, None)
    assert (list(second.stages), second.remark) == ([TEACHER, STUDENT, EVALUATION], None)
    assert second.metrics["student"]["prauc"] == [0.5, 0.375, 0.625]
    assert second.metrics["popularity"]["f1"] is None
    assert second.finished_at == Run(f"{tmp_path}/b").manifest(EVALUATION)["finished_at"]


def test_the_run_that_was_finished_last_stands_last(tmp_path: Path) -> None:
    for name, finished in (("a", "2026-02-02"), ("b", "2026-01-01"), ("c", "2026-03-03")):
        path = make_run(tmp_path / name, STUDENT).path(STUDENT, "manifest.json")
        storage.write_json(path, storage.read_json(path) | {"finished_at": f"{finished}T10:20:30+00:00"})
    listed = runs.summaries(str(tmp_path))
    assert [Path(run.run).name for run in listed] == ["b", "a", "c"]
    assert [row[3] for row in list_table("Runs", listed).rows] == [
        "2026-01-01 10:20",
        "2026-02-02 10:20",
        "2026-03-03 10:20",
    ]


def test_an_evaluation_of_an_older_version_is_listed_without_metrics(tmp_path: Path) -> None:
    evaluate(make_run(tmp_path / "old", STUDENT), OLD_RESULT)
    (told,) = runs.summaries(str(tmp_path))
    assert list(told.stages) == [STUDENT, EVALUATION]
    assert told.metrics == {}
    assert told.remark is not None
    assert f"evaluate it again with `leader evaluate --run {tmp_path}/old --force`" in told.remark


@pytest.mark.parametrize("file", ["manifest.json", "configuration.yaml"])
def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path, file: str) -> None:
    make_run(tmp_path / "broken", STUDENT)
    make_run(tmp_path / "whole", STUDENT)
    (tmp_path / "broken" / STUDENT / file).write_text("[")
    broken, whole = runs.summaries(str(tmp_path))
    assert broken.remark is not None
    assert f"{STUDENT}/{file} cannot be read" in broken.remark
    assert whole.recipe == "default"


def test_no_directory_of_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no directory .+/nowhere of runs"):
        runs.summaries(f"{tmp_path}/nowhere")
    assert runs.summaries(str(tmp_path)) == []


def test_a_list_has_a_row_for_each_main_model_else_for_all() -> None:
    metrics = {name: {"prauc": [0.5, 0.4, 0.6], "jaccard": None, "f1": None} for name in ("popularity", "teacher")}
    stages = {STUDENT: "2026-01-01T10:20:30+00:00"}
    several = runs.RunSummary("s3://bucket/runs/several", "default", stages, metrics)
    other = runs.RunSummary("/runs/other", "default", stages, {"popularity": metrics["popularity"]})
    unknown = runs.RunSummary("/runs/unknown", None, {}, {}, "It cannot be read.")
    rows = list_table("Runs", [several, other, unknown]).rows
    assert [(row[0], row[4], str(row[5])) for row in rows] == [
        ("several", "teacher", "0.5000 [0.4000,\xa00.6000]"),
        ("other", "popularity", "0.5000 [0.4000,\xa00.6000]"),
        ("unknown", None, "None"),
    ]


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_told_by_dotted_keys_and_only_those_that_differ() -> None:
    first = {"recipe": "a", "teacher": {"rank": 8, "targets": ["q", "v"]}, "tune": {"uniform": {"dropout": [0, 1]}}}
    second = {"recipe": "a", "teacher": {"rank": 16, "targets": ["q", "v"]}, "new": None, "flag": False}
    assert runs.differing(runs.flat(first), runs.flat(second)) == {
        "teacher.rank": (8, 16),
        "tune.uniform.dropout": ([0, 1], None),
        "flag": (None, False),
    }


def test_a_section_is_told_as_the_product_that_it_decided_was_made(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", TEACHER, FEATURES, config=LeaderConfig(teacher=TeacherConfig(lora_rank=4)))
    make_run(tmp_path / "run", STUDENT_ALONE, config=LeaderConfig(student=StudentConfig(width=32)))
    make_run(tmp_path / "run", STUDENT, config=LeaderConfig(student=StudentConfig(width=128)))
    late = LeaderConfig(recipe="quickstart", evaluate=EvaluateConfig(folds=3))
    evaluate(run, result(0.5), config=late)
    path = run.path(EVALUATION, "manifest.json")
    storage.write_json(path, storage.read_json(path) | {"finished_at": "2999-01-01T00:00:00+00:00"})
    told = runs.configuration(run)
    assert told["teacher"]["lora_rank"] == 4
    assert told["student"]["width"] == 128
    assert told["evaluate"]["folds"] == 3
    assert told["recipe"] == "quickstart"


# --- a comparison ----------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_in_settings_metrics_and_sample_by_sample(tmp_path: Path) -> None:
    wide = LeaderConfig(student=StudentConfig(width=128))
    first = evaluate(make_run(tmp_path / "a", STUDENT), result(0.5), samples([0.5, 0.5, 0.25, 0.75]))
    second = evaluate(make_run(tmp_path / "b", STUDENT, config=wide), result(0.625), samples([0.75, 0.75, 0.5, 1.0]))
    told = runs.compare(first, second)
    assert told.configuration == {"student.width": (64, 128)}
    assert told.metrics["student"]["prauc"] == ([0.5, 0.375, 0.625], [0.625, 0.5, 0.75])
    # Every sample gained a quarter, so every draw of patients does.
    assert told.paired == {"student": {"prauc": [0.25, 0.25, 0.25], "jaccard": [0.125] * 3, "f1": [0.125] * 3}}
    assert told.remark is None


def test_a_model_that_one_run_lacks_is_told_of_the_other(tmp_path: Path) -> None:
    first = evaluate(make_run(tmp_path / "a"), result(0.5))
    fewer = result(0.5)
    del fewer["models"]["popularity"]
    second = evaluate(make_run(tmp_path / "b"), fewer)
    assert runs.compare(first, second).metrics["popularity"]["prauc"] == ([0.25, 0.125, 0.5], None)


def test_runs_of_different_protocols_are_not_paired(tmp_path: Path) -> None:
    same = samples([0.5, 0.5, 0.25, 0.75])
    first = evaluate(make_run(tmp_path / "a"), result(0.5), same)
    second = evaluate(make_run(tmp_path / "b"), result(0.5, folds=3, data="4567"), same)
    told = runs.compare(first, second)
    assert told.paired == {}
    assert told.remark == "Nothing is paired, since the protocols differ in data, folds."


def test_more_draws_of_patients_are_no_other_protocol(tmp_path: Path) -> None:
    same = samples([0.5, 0.5, 0.25, 0.75])
    first = evaluate(make_run(tmp_path / "a"), result(0.5), same)
    second = evaluate(make_run(tmp_path / "b"), result(0.5, bootstrap_replicates=500), same)
    assert runs.compare(first, second).paired["student"]["prauc"] == [0, 0, 0]


def test_runs_without_metrics_of_single_samples_are_not_paired(tmp_path: Path) -> None:
    first = evaluate(make_run(tmp_path / "a"), result(0.5), samples([0.5] * 4))
    told = runs.compare(first, evaluate(make_run(tmp_path / "b"), result(0.5)))
    assert told.paired == {}
    assert told.remark is not None
    assert f"{tmp_path}/b keeps no metrics of single samples" in told.remark


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    whole = evaluate(make_run(tmp_path / "whole"), result(0.5))
    (tmp_path / "empty").mkdir()
    for run, sentence in (
        (Run(f"{tmp_path}/nowhere"), "is not a run"),
        (Run(f"{tmp_path}/empty"), "is not a run"),
        (make_run(tmp_path / "unjudged", STUDENT), "was never evaluated; do so with `leader evaluate --run"),
        (evaluate(make_run(tmp_path / "old"), OLD_RESULT), "was evaluated by an older version"),
    ):
        for pair in ((whole, run), (run, whole)):
            with pytest.raises(UserError, match=sentence) as error:
                runs.compare(*pair)
            assert run.uri in str(error.value)


def test_a_paired_difference_is_the_second_runs_over_the_first_whatever_the_order_of_rows() -> None:
    first = samples([0.5, 0.5, 0.25, 0.75])
    second = samples([0.5, 0.75, 0.5, 0.25]).take([3, 1, 0, 2])
    value, low, high = runs.paired_differences(first, second, 500)["student"]["prauc"] or []
    assert value == 0  # 0, 0.25, 0.25 and -0.5
    assert (low, high) == (-0.5, 0.25)  # a draw of the third patient alone, one of the second alone
    same = runs.paired_differences(first, first, 500)["student"]
    assert same == {"prauc": [0, 0, 0], "jaccard": [0, 0, 0], "f1": [0, 0, 0]}


def test_a_sample_where_a_metric_has_no_meaning_is_left_out_of_its_mean() -> None:
    first, second = samples([0.5, np.nan, 0.25, 0.75]), samples([0.75, np.nan, 0.5, 1.0])
    assert runs.paired_differences(first, second, 50)["student"]["prauc"] == [0.25, 0.25, 0.25]
    nowhere = samples([np.nan] * 4)
    assert runs.paired_differences(nowhere, nowhere, 50)["student"]["prauc"] is None


def test_models_that_judge_other_samples_are_not_paired() -> None:
    both = pa.concat_tables([samples([0.5] * 4), samples([0.5] * 4, "teacher")])
    other = pa.concat_tables([samples([0.5] * 4), samples([0.5] * 4, "teacher").slice(1)])
    assert list(runs.paired_differences(both, other, 50)) == ["student"]


def test_tables_show_the_interval_where_it_is_paired_and_else_the_bare_difference() -> None:
    both = {"student": {"prauc": [0.5, 0.4, 0.6], "f1": [0.5, 0.4, 0.6]}, "teacher": {}}
    after = {"student": {"prauc": [0.625, 0.5, 0.7], "f1": [0.25, 0.2, 0.3]}, "teacher": {"prauc": [0.5, 0.4, 0.6]}}
    metrics = runs.both_metrics(*({name: {"all": found} for name, found in each.items()} for each in (both, after)))
    paired: dict[str, dict[str, list[float] | None]] = {"student": {"prauc": [0.125, 0.1, 0.15]}}
    told = runs.Comparison(("/runs/a", "/runs/b"), {"student.width": (64, None)}, metrics, paired, None)
    settings, figures = comparison_tables(told)
    assert (settings.columns, settings.rows) == (("setting", "a", "b"), [("student.width", "64", "–")])
    assert figures.columns == ("model", "metric", "a", "b", "b − a")
    assert [(*row[:2], row[4]) for row in figures.rows] == [
        ("student", "PRAUC", Difference(0.125, 0.1, 0.15)),
        ("student", "F1", -0.25),
        ("teacher", "PRAUC", None),
    ]
    same_names = runs.Comparison(("/one/default", "/two/default"), {}, {}, {}, None)
    assert comparison_tables(same_names)[0].columns == ("setting", "/one/default", "/two/default")

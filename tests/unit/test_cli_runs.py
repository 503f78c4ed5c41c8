"""`leader runs`: results that a person and a program can read, and one sentence an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import evaluate, make_run, result, samples
from typer.testing import CliRunner, Result

from leader_cli.main import app
from leader_platform.artifacts import STUDENT
from leader_platform.config import LeaderConfig, StudentConfig
from leader_platform.errors import UserError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with an evaluated run, another one with a wider student, and one that was evaluated long ago."""
    monkeypatch.delenv("LEADER_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "workspace" / "runs"
    evaluate(make_run(folder / "narrow", STUDENT), result(0.5), samples([0.5, 0.5, 0.25, 0.75]))
    wide = make_run(folder / "wide", STUDENT, config=LeaderConfig(student=StudentConfig(width=128)))
    evaluate(wide, result(0.625), samples([0.75, 0.75, 0.5, 1.0]))
    evaluate(make_run(folder / "old", STUDENT), {"label_window": "whole stay", "models": {"student": {"groups": {}}}})
    return tmp_path / "workspace"


def leader(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), *arguments])


def test_list_shows_the_runs_of_the_workspace_and_what_to_do_again(home: Path) -> None:
    shown = leader(home, "runs", "list")
    assert shown.exit_code == 0, shown.output
    (row,) = (line for line in shown.stdout.splitlines() if "narrow" in line)
    for part in ("default", "student, evaluation", "0.5000"):
        assert part in row
    assert "evaluated by an older version" in shown.stderr


def test_list_as_json_holds_every_metric(home: Path) -> None:
    told = json.loads(leader(home, "--json", "runs", "list").stdout)
    narrow = next(run for run in told if run["run"].endswith("/narrow"))
    assert narrow["metrics"]["student"]["prauc"] == [0.5, 0.375, 0.625]
    assert narrow["finished_at"] == max(narrow["stages"].values())
    assert next(run for run in told if run["run"].endswith("/old"))["metrics"] == {}


def test_list_takes_a_directory(home: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere" / "one", STUDENT)
    told = json.loads(leader(home, "--json", "runs", "list", str(tmp_path / "elsewhere")).stdout)
    assert [run["run"] for run in told] == [f"{tmp_path}/elsewhere/one"]


def test_compare_shows_settings_and_paired_differences(home: Path) -> None:
    shown = leader(home, "runs", "compare", "narrow", "wide")
    assert shown.exit_code == 0, shown.output
    assert [line.split() for line in shown.stdout.splitlines() if "student.width" in line] == [
        ["│", "student.width", "│", "64", "│", "128", "│"]
    ]
    assert "+0.2500 [0.2500, 0.2500] *" in shown.stdout.replace("\xa0", " ")


def test_compare_as_json_takes_names_and_paths_alike(home: Path) -> None:
    path = str(home / "runs" / "wide")
    told = json.loads(leader(home, "--json", "runs", "compare", "narrow", path).stdout)
    assert told["runs"] == [f"{home}/runs/narrow", path]
    assert told["configuration"] == {"student.width": [64, 128]}
    assert told["metrics"]["student"]["prauc"] == [[0.5, 0.375, 0.625], [0.625, 0.5, 0.75]]
    assert told["paired"]["student"]["prauc"] == [0.25, 0.25, 0.25]


def test_compare_says_why_nothing_is_paired(home: Path) -> None:
    evaluate(make_run(home / "runs" / "other", STUDENT), result(0.5, folds=3))
    shown = leader(home, "runs", "compare", "narrow", "other")
    assert "the protocols differ in folds" in shown.stderr
    assert "+0." not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("list", "nowhere/at/all"), "There is no directory nowhere/at/all of runs"),
        (("compare", "narrow", "nowhere"), "is not a run"),
        (("compare", "old", "narrow"), "was evaluated by an older version"),
    ],
)
def test_bad_input_is_one_sentence(home: Path, arguments: tuple[str, ...], part: str) -> None:
    failed = leader(home, "runs", *arguments)
    assert isinstance(failed.exception, UserError)
    assert part in str(failed.exception)
    assert "\n" not in str(failed.exception)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from leader_cli.main import app\n"
        "for command in ('runs', 'runs list', 'runs compare'):\n"
        "    assert CliRunner().invoke(app, [*command.split(), '--help']).exit_code == 0\n"
        "print(sorted({'numpy', 'pyarrow', 'scipy', 'matplotlib', 'ray', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"

"""The command line: help without weight, one sentence an error, results that a program can read. No Ray."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.patients import write_hosp
from typer.testing import CliRunner

from leader_cli import data
from leader_cli.console import TerminalProgress
from leader_cli.main import app
from leader_cli.recommend import Model
from leader_cli.tables import rich_tables
from leader_cli.train import StageName
from leader_jobs.pipeline import GROUPS, STAGES
from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError
from leader_platform.recipes import recipe
from leader_platform.report import Table
from leader_platform.settings import load_config
from leader_serve.schemas import ModelChoice

LEADER = Path(sys.executable).parent / "leader"
COMMANDS = (
    "",
    "quickstart",
    "data",
    "data synth",
    "data fetch",
    "data prepare",
    "data describe",
    "train",
    "tune",
    "evaluate",
    "runs",
    "runs list",
    "runs compare",
    "cluster",
    "dashboard",
    "jobs",
    "jobs list",
    "jobs attach",
    "deploy render kubernetes",
    "serve",
    "recommend",
)
_HELP = """
import sys
from typer.testing import CliRunner
from leader_cli.main import app
for command in {commands}:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, (command, result.output)
    assert "Usage" in result.output
heavy = {{"ray", "torch", "vllm", "transformers", "pandas", "pyarrow", "numpy", "sklearn"}}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.fixture(autouse=True)
def _no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "LEADER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def leader(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "60"}
    return subprocess.run(
        [LEADER, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def test_no_help_imports_anything_heavy() -> None:
    program = [sys.executable, "-c", _HELP.format(commands=COMMANDS)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("data", "describe", "nowhere-to-be-found-in-this-folder-or-any-other"), "is not a prepared data set"),
        (("--set", "student.wdith=3", "config"), "There is no setting 'student.wdith'"),
        (("--config", "none.yaml", "config"), "none.yaml"),
        (("--recipe", "paper", "config"), "paper-mimic4"),
        (("data", "prepare", "--raw", "nowhere"), "patients.csv.gz"),
        (("train", "--stage", "student"), "leader data prepare"),
        (("--set", "[/x]", "config"), "'[/x]'"),
        (("data", "describe", "folder[bold]"), "folder[bold]"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments: tuple[str, ...], part: str) -> None:
    result = leader(*arguments)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert part in line
    assert result.stdout == ""


def test_debug_shows_where_it_happened() -> None:
    result = leader("--debug", "data", "describe", "nowhere")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "UserError" in result.stderr


@pytest.mark.parametrize("arguments", [("--frobnicate",), ("train", "--stage", "distil"), ("nonsense",)])
def test_a_wrong_option_is_bad_input_too(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2
    assert arguments[-1] in result.output


def test_config_prints_what_loads_back(tmp_path: Path) -> None:
    settings = ["--recipe", "quickstart", "--set", "student.width=128", "--set", "data.label_window_hours=24"]
    result = CliRunner().invoke(app, [*settings, "config"])
    assert result.exit_code == 0
    (tmp_path / "settings.yaml").write_text(result.output)
    expected = load_config(recipe("quickstart"), None, ["student.width=128", "data.label_window_hours=24"])
    assert load_config(LeaderConfig(), tmp_path / "settings.yaml") == expected
    again = CliRunner().invoke(app, ["--config", str(tmp_path / "settings.yaml"), "config"])
    assert yaml.safe_load(again.output) == yaml.safe_load(result.output)


def test_synth_tells_counts_as_json_alone(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    result = CliRunner().invoke(app, ["--json", "data", "synth", "--out", str(out), "--patients", "5", "--seed", "1"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["out"], told["patients"], told["seed"]) == (str(out), 5, 1)
    assert (out / "hosp" / "patients.csv.gz").exists()


def test_synth_tells_its_counts_as_a_table_under_an_unbroken_title(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "synth", "--out", "a-folder-with-a-long-name", "--patients", "5"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].strip() == "Synthetic cohort in a-folder-with-a-long-name"
    assert (tmp_path / "a-folder-with-a-long-name/hosp/patients.csv.gz").exists()


def test_synth_shows_the_patients_written_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(data, "progress", TerminalProgress(terminal))
    result = CliRunner().invoke(app, ["data", "synth", "--out", str(tmp_path / "raw"), "--patients", "5"])
    assert result.exit_code == 0, result.output
    assert "5 of 5 patients" in shown.getvalue()


def test_synth_refuses_a_remote_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "synth", "--out", "s3://bucket/x", "--patients", "5"])
    assert isinstance(result.exception, UserError)
    assert "--out s3://bucket/x is remote" in str(result.exception)
    assert not any(tmp_path.iterdir())


def test_a_long_table_is_cut_and_says_so() -> None:
    rows = [(f"row {number}", number) for number in range(1204)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*rich_tables([Table("Rows", ("name", "value"), rows)], most_rows=3))
    text = console.export_text()
    assert "row 2" in text
    assert "row 3" not in text
    assert "and 1,201 more" in text


def test_prepare_checks_its_tables_before_ray_starts(tmp_path: Path) -> None:
    write_hosp(tmp_path / "raw", admissions=None)
    result = CliRunner().invoke(app, ["data", "prepare", "--raw", str(tmp_path / "raw")])
    assert "admissions.csv.gz" in str(result.exception)
    assert "ray" not in str(type(result.exception).__module__)
    assert not (tmp_path / "workspace" / "data").exists()


def test_every_stage_can_be_asked_for() -> None:
    assert {name.value for name in StageName} == {*STAGES, *GROUPS}


def test_every_model_can_be_asked_for() -> None:
    assert {name.value for name in Model} == {name.value for name in ModelChoice}


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_patient_file_that_is_no_request_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "patient.json").write_text(text)
    result = leader("recommend", "--patient", "patient.json")
    assert result.returncode == 2
    assert result.stderr.startswith("Error: The patient file patient.json")


def test_home_comes_from_the_option_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEADER_HOME", str(tmp_path / "from-environment"))
    by_environment = CliRunner().invoke(app, ["data", "describe"])
    assert "from-environment/data" in str(by_environment.exception)
    by_option = CliRunner().invoke(app, ["--home", str(tmp_path / "from-option"), "data", "describe"])
    assert "from-option/data" in str(by_option.exception)

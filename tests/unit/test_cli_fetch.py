"""`leader data fetch` as a person runs it, from a server on the loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_files import Fault, FileServer, serving
from typer.testing import CliRunner

from leader_cli.data import Fetchable
from leader_cli.main import app
from leader_platform.data.fetch import COLLECTIONS
from leader_platform.errors import UserError


@pytest.fixture
def server(terminology: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(terminology=terminology) as server:
        yield server


def test_every_collection_can_be_asked_for() -> None:
    assert [what.value for what in Fetchable] == list(COLLECTIONS)


def test_the_terminology_is_fetched_from_a_named_server(server: FileServer, terminology: Path, tmp_path: Path) -> None:
    arguments = ["data", "fetch", "terminology", "--base-url", f"{server.url}/terminology", "--out", str(tmp_path)]
    server.faults["/terminology/atc_coding.csv.gz"] = [Fault(status=503, headers={"Retry-After": "0"})]
    result = CliRunner().invoke(app, ["--json", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "out": str(tmp_path),
        "files": [
            {"name": "mimic_drug_to_atc.csv.gz", "num_bytes": 67_255, "downloaded": True},
            {"name": "gsn_atc_ndc_mapping.csv.gz", "num_bytes": 41_150, "downloaded": True},
            {"name": "atc_coding.csv.gz", "num_bytes": 54_717, "downloaded": True},
            {"name": "ddi_atc3.csv", "num_bytes": 3_384, "downloaded": True},
        ],
    }
    for path in terminology.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert again.stdout.count("was there") == 4


def test_a_wrong_address_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["data", "fetch", "terminology", "--base-url", f"{server.url}/terms", "--out", str(tmp_path)]
    )
    assert isinstance(result.exception, UserError)
    assert "terms/mimic_drug_to_atc.csv.gz does not exist" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
    assert result.stderr.splitlines()[1:] == []  # the licence alone: no empty bar


def test_a_remote_folder_is_refused() -> None:
    result = CliRunner().invoke(app, ["data", "fetch", "terminology", "--out", "s3://bucket/x"])
    assert isinstance(result.exception, UserError)
    assert "--out s3://bucket/x is remote" in str(result.exception)


def test_help_names_every_collection_whole() -> None:
    text = CliRunner().invoke(app, ["data", "fetch", "--help"], env={"COLUMNS": "80"}).stdout
    for name in COLLECTIONS:
        assert name in text

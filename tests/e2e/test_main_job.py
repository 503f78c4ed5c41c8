"""The main job on real patients: the MIMIC-IV demo through SmolLM2, vLLM, Ray and HTTP, by the commands of README.

One workspace and one cluster for all tests of this file, which follow each other as a user's commands would.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from leader_platform.artifacts import Run
from leader_platform.cluster import temp_dir_of
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.samples import SPLITS
from leader_platform.features import read_features

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = (
    "teacher.max_steps=6",
    "teacher.checkpoint_steps=3",
    "prompt.history_visits=1",
    "prompt.max_tokens=384",
    "student.max_epochs=10",
)


class Workspace:
    """A home folder, and the `leader` command in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.serve_port, self.dashboard_port = free_port(), free_port()
        self.longest_silence_s = 0.0  # of the last command's error stream

    def leader(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        settings = [f"--set={setting}" for setting in (*SMALL, f"serve.port={self.serve_port}")]
        command = [str(Path(sys.executable).parent / "leader"), f"--home={self.home}", "--recipe=quickstart", *settings]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [*command, *arguments], stdout=output, stderr=subprocess.PIPE, text=True, env=environment
            )
            remarks, times = [], [time.monotonic()]

            def read() -> None:
                assert process.stderr is not None
                for line in process.stderr:
                    remarks.append(line)
                    times.append(time.monotonic())

            reader = threading.Thread(target=read)
            reader.start()
            process.wait(timeout=900)
            reader.join()
            output.seek(0)
            done = subprocess.CompletedProcess(process.args, process.returncode, output.read(), "".join(remarks))
        assert done.returncode == code, done.stdout + done.stderr
        self.longest_silence_s = max(
            later - earlier for earlier, later in zip(times, [*times[1:], time.monotonic()], strict=True)
        )
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.leader("--json", *arguments).stdout)

    @property
    def data(self) -> PreparedData:
        return PreparedData(str(self.home / "data"))

    @property
    def run(self) -> Run:
        return Run(str(self.home / "runs/default"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.serve_port}"


@pytest.fixture(scope="module")
def workspace(mimic4_demo: Path, terminology: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The demo prepared, and a cluster up."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    arguments = ("--raw", str(mimic4_demo), "--terminology", str(terminology), "--source", "mimic4")
    workspace.leader("data", "prepare", *arguments, "--out", str(workspace.home / "data"))
    workspace.leader("cluster", "up", "--num-cpus=2", f"--dashboard-port={workspace.dashboard_port}")
    yield workspace
    workspace.leader("cluster", "down")
    # Whatever the cluster started carries the workspace's or the cluster's folder in its command line.
    marks = (str(workspace.home), "VLLM::", f"--dashboard-port={workspace.dashboard_port}")
    left = [process for process in psutil.process_iter(["cmdline"]) if any(m in command(process) for m in marks)]
    assert left == []


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Workspace:
    """Every stage run on the cluster, evaluated and deployed."""
    shown = workspace.leader("train", "--stage", "distill")
    # Followed through a Ray job: no more than ten seconds without a line, and no more lines than a person reads.
    assert workspace.longest_silence_s < 10
    assert len(shown.stderr.splitlines()) < 200
    assert "LEADER-PROGRESS" not in shown.stderr
    workspace.leader("train", "--stage", "student")
    return workspace


def test_a_run_without_a_student_is_not_deployed(workspace: Workspace, tmp_path: Path) -> None:
    refused = workspace.leader("serve", "deploy", "--run", str(tmp_path), code=2)
    assert refused.stderr.strip().splitlines() == [
        f"Error: The run {tmp_path} has no trained student; run `leader train --stage distill --run {tmp_path}`."
    ]


def test_an_unreadable_run_is_not_deployed(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student/manifest.json").write_text('{"key": ')
    refused = workspace.leader("serve", "deploy", "--run", str(tmp_path), code=2)
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "student/manifest.json cannot be read" in refused.stderr


def test_a_taken_port_is_named(trained: Workspace) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = trained.leader(f"--set=serve.port={port}", "serve", "deploy", code=2)
    assert f"Port {port} is taken by another program" in refused.stderr
    assert trained.json("serve", "status")["status"] == "NOT_DEPLOYED"


@pytest.fixture(scope="module")
def deployed(trained: Workspace) -> Workspace:
    trained.leader("serve", "deploy")
    return trained


def test_the_demo_has_the_counts_that_are_known_of_it(workspace: Workspace) -> None:
    manifest = workspace.data.manifest
    assert manifest["flow"]["admissions"] == 275
    assert manifest["flow"]["with a mapped medication"] == 250
    assert manifest["patients"] == 100
    assert manifest["distinct_codes"]["medications"] == 140
    assert manifest["mean_codes_per_visit"]["medications"] == pytest.approx(22.0, abs=0.05)
    assert manifest["coverage"]["mapped_rows"] / manifest["coverage"]["prescription_rows"] == pytest.approx(
        0.997, abs=0.001
    )
    assert "275" in workspace.leader("data", "describe").stdout


def test_one_command_runs_the_stages_it_needs_as_jobs_on_the_cluster(trained: Workspace) -> None:
    for stage in ("teacher", "features", "student", "student_alone"):
        assert trained.run.has(stage)
    jobs = {job["name"]: job["status"] for job in trained.json("cluster", "status")["jobs"]}
    assert jobs == {"leader train --stage distill": "SUCCEEDED", "leader train --stage student": "SUCCEEDED"}
    assert "Nothing to do" in trained.leader("train", "--stage", "distill").stderr


def test_vllm_and_transformers_read_the_same_states(trained: Workspace) -> None:
    """STACK's promise for the features: cosine at least 0.999 for each prompt, norms within 2 %."""
    other = Run(str(trained.home / "runs/transformers"))
    Path(other.uri).mkdir(parents=True)
    os.symlink(trained.run.path("teacher"), other.path("teacher"))
    engine = ("--set=features.engine=transformers",)
    trained.leader(*engine, "train", "--stage", "features", "--only", "--run", other.uri)
    for split in SPLITS:
        ours, theirs = (read_features(run, trained.data, split, "hidden_state") for run in (trained.run, other))
        norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
        assert norms[0].min() > 5, "the states are normalised"
        cosine = (ours * theirs).sum(axis=1) / (norms[0] * norms[1])
        assert cosine.min() >= 0.999
        assert np.abs(norms[0] / norms[1] - 1).max() <= 0.02


def test_evaluation_compares_all_models(trained: Workspace) -> None:
    result = trained.json("evaluate")
    assert set(result["models"]) == set(LeaderConfig().evaluate.models)
    for groups in result["models"].values():
        prauc, low, high = groups["all"]["prauc"]
        assert 0.4 < low <= prauc <= high
        assert groups["all"]["interaction_rate"] is not None
    assert "student-logistic_regression" in result["paired"]
    assert "<h1" in Path(trained.run.path("evaluation", "report.html")).read_text()
    assert json.loads(Path(trained.run.path("evaluation", "metrics.json")).read_text()) == result
    assert "Paired differences" in trained.leader("evaluate").stdout


def patient(workspace: Workspace, first_visit: bool) -> dict[str, Any]:
    rows = workspace.data.samples("test").to_pylist()
    row = next(row for row in rows if (row["prior_visits"] == 0) == first_visit)
    return {
        "patient": {"gender": row["gender"], "age": row["age"], "insurance": row["insurance"]},
        "visits": [*row["history"], {"diagnoses": row["diagnoses"], "procedures": row["procedures"]}],
    }


def test_first_visits_go_to_the_teacher_and_the_rest_where_the_student_is_unsure(deployed: Workspace) -> None:
    for first_visit in (True, False):
        request = patient(deployed, first_visit)
        student = post(deployed, {**request, "model": "student"})
        unsure = student["confidence"] < LeaderConfig().serve.min_confidence
        body = post(deployed, request)
        assert (body["model"], body["degraded"]) == ("teacher" if first_visit or unsure else "student", False)
        assert 0 < len(body["medications"]) <= 140
        known = set(deployed.data.vocabulary.medications)
        assert {medication["code"] for medication in body["medications"]} <= known
        scores = [medication["probability"] for medication in body["medications"]]
        assert scores == sorted(scores, reverse=True)


def post(workspace: Workspace, request: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{workspace.url}/v1/recommendations", json=request, timeout=60)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def test_what_is_served_is_what_was_evaluated(deployed: Workspace) -> None:
    """The teacher's answer over HTTP is the features stage's: the model that was measured is the one that answers."""
    rows = deployed.data.samples("test").to_pylist()
    index = next(index for index, row in enumerate(rows) if row["prior_visits"] == 0)
    request = {**patient(deployed, first_visit=True), "model": "teacher", "threshold": 0.0}
    request["patient"] = {
        name: rows[index][name] for name in ("gender", "age", "insurance", "language", "marital_status", "race")
    }
    answer = post(deployed, request)
    logits = read_features(deployed.run, deployed.data, "test", "logits")[index]
    expected = dict(zip(deployed.data.vocabulary.medications, 1 / (1 + np.exp(-logits)), strict=True))
    got = {medication["code"]: medication["probability"] for medication in answer["medications"]}
    assert got.keys() == expected.keys()
    assert max(abs(got[code] - expected[code]) for code in got) < 0.02


def test_a_prompt_that_is_too_long_loses_its_history_and_the_answer_says_so(deployed: Workspace) -> None:
    request = {**patient(deployed, first_visit=False), "model": "teacher"}
    *_, current = request["visits"]
    many = {"diagnoses": [code for code in deployed.data.vocabulary.codes["diagnoses"] if ":" in code][:200]}
    assert post(deployed, {**request, "visits": [many, current]})["prompt_truncated"] is True
    short = {kind: codes[:3] for kind, codes in current.items()}
    assert post(deployed, {**request, "visits": [short]})["prompt_truncated"] is False


def test_no_file_of_the_cluster_holds_what_a_request_said(deployed: Workspace) -> None:
    """Values that stand nowhere else, in requests that are answered, refused and cut off, by both models."""
    code, word = "ICD10CM:PLANTED7Q", "Plantedlantern"
    visit = {"diagnoses": [code, "ICD10CM:I10"]}
    url, good = f"{deployed.url}/v1/recommendations", {"patient": {"race": word}, "visits": [visit]}
    for model in ("student", "teacher", "auto"):
        answer = post(deployed, {**good, "model": model})
        assert answer["unknown_codes"] == [code]
    bodies = [
        {**good, "visits": [{"diagnoses": [[code]]}]},
        {**good, word: code},
        {**good, "patient": {"age": word}},
        {**good, "visits": [{**visit, "medications": [code]}]},
        {**good, "visits": [{"diagnoses": [code] * 600}]},
    ]
    for body in bodies:
        refused = httpx.post(url, json=body, timeout=60)
        assert refused.status_code == 422
        assert code not in refused.text
    assert httpx.post(url, content=f"{{{word}".encode(), timeout=60).status_code == 422
    assert httpx.post(url, content=word.encode() * 400_000, timeout=60).status_code == 413
    mixed = httpx.post(f"{url}:batch", json={"requests": [good, *bodies]}, timeout=60).json()["items"]
    assert [item["error"] is None for item in mixed] == [True] + [False] * len(bodies)
    with suppress(httpx.TimeoutException):  # the caller goes away, and the teacher is told to stop
        httpx.post(url, json={**good, "model": "teacher"}, timeout=0.05)
    places = (deployed.home, temp_dir_of(deployed.home))  # the second has Ray's and Serve's logs
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert any("serve" in str(file) and file.suffix == ".log" for file in files)
    planted = [file for file in files for text in (code, word) if text.encode() in file.read_bytes()]
    assert planted == []


def test_recommend_asks_over_http_and_shows_a_table(deployed: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "patient.json"
    file.write_text(json.dumps(patient(deployed, first_visit=False)))
    shown = deployed.leader("recommend", "--patient", str(file), "--model", "student")
    assert "Recommended by the student" in shown.stdout
    assert "not a medical device" in shown.stderr
    assert deployed.json("recommend", "--patient", str(file), "--model", "teacher")["model"] == "teacher"


def test_the_application_is_seen_and_taken_away(deployed: Workspace, tmp_path: Path) -> None:
    status = deployed.json("serve", "status")
    assert status["status"] == "RUNNING"
    assert set(status["deployments"]) == {"Ingress", "Teacher"}
    deployed.leader("serve", "shutdown")
    assert deployed.json("serve", "status")["status"] == "NOT_DEPLOYED"
    file = tmp_path / "patient.json"
    file.write_text(json.dumps(patient(deployed, first_visit=False)))
    refused = deployed.leader("recommend", "--patient", str(file), code=1)
    assert "leader serve deploy" in refused.stderr


def test_a_student_of_its_own_answers_those_with_a_key_where_no_teacher_is(deployed: Workspace) -> None:
    key = deployed.json("serve", "keys", "add", "ward-7")["key"]
    serve_deploys(deployed, "--set=serve.student=deployment", "serve", "deploy", "--no-teacher", "--dry-run")
    request = patient(deployed, first_visit=True)
    assert httpx.post(f"{deployed.url}/v1/recommendations", json=request).status_code == 401
    headers = {"Authorization": f"Bearer {key}"}
    body = httpx.post(f"{deployed.url}/v1/recommendations", json=request, headers=headers, timeout=60).json()
    assert (body["model"], body["degraded"]) == ("student", True)
    assert body["route"]["reason"] == "teacher-unavailable"
    assert set(deployed.json("serve", "status")["deployments"]) == {"Ingress", "Student"}
    deployed.leader("serve", "shutdown")


def serve_deploys(workspace: Workspace, *dry_run: str) -> None:
    """Deploy a plan by Serve's own command, and wait until it runs."""
    plan = workspace.home / "plan.yaml"
    plan.write_text(workspace.leader(*dry_run).stdout)
    token = workspace.home / "cluster/token"
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    address = f"http://127.0.0.1:{workspace.dashboard_port}"
    serve = [str(Path(sys.executable).parent / "serve"), "deploy", str(plan), "--address", address]
    subprocess.run(serve, env=environment, check=True, capture_output=True, timeout=300)
    deadline = time.monotonic() + 120
    while workspace.json("serve", "status")["status"] != "RUNNING":
        assert time.monotonic() < deadline


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())

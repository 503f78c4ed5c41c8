"""One local cluster, from `leader cluster up` to `leader cluster down`."""

from __future__ import annotations

import json
import queue
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import Result
from support.recording_proxy import NO_PROXY_VARIABLES, RecordingProxy, recording_proxy
from typer.testing import CliRunner

from leader_cli.main import app
from leader_platform import cluster, cluster_processes, ray_jobs
from leader_platform.cluster_state import ClusterState
from leader_platform.errors import RunError, UserError
from leader_platform.ports import free_port
from leader_platform.progress import LineProgress
from leader_platform.ray_jobs import submit_and_follow

pytestmark = pytest.mark.slow

STAGE = """
import os
import sys
import time
from leader_platform.ray_session import ray_session

match sys.argv[1]:
    case "good":
        with ray_session():
            import ray

            print("answer", ray.get(ray.remote(lambda: 6 * 7).remote()))
            print("proxy", ray.get(ray.remote(lambda: os.environ["http_proxy"]).remote()))
    case "bad input":
        print("LEADER-ERROR 2 No data set is at DIR; run prepare.")
        sys.exit(2)
    case "crash":
        raise SystemError("the sky fell")
    case "count":
        from leader_platform.progress import job_progress

        progress = job_progress()
        with progress.task("Lesen – 読む", 40, "samples") as task:
            for _ in range(40):
                if task.done == 5:
                    print("remark", end="")
                task.advance()
                time.sleep(0.2)
    case "train":
        from leader_jobs.metrics import TrainingMetrics

        with ray_session():
            TrainingMetrics("teacher").told({"loss": 0.25, "validation_prauc": 0.5})
            print("told", flush=True)
            time.sleep(120)
    case "wait":
        print("waiting", flush=True)
        time.sleep(600)
"""


MONITORED = shutil.which("prometheus") is not None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    cluster.down(home)


@pytest.fixture(scope="module", autouse=True)
def proxy() -> Iterator[RecordingProxy]:
    """All of this module happens behind a web proxy from which nothing is excepted."""
    with recording_proxy() as proxy, pytest.MonkeyPatch.context() as patch:
        for name in NO_PROXY_VARIABLES:
            patch.setenv(name, "")  # so that what the commands set is taken back
            patch.delenv(name)
        for name, value in proxy.environment().items():
            patch.setenv(name, value)
        yield proxy


@pytest.fixture(scope="module")
def state(home: Path, proxy: RecordingProxy) -> ClusterState:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        arguments = [
            "cluster",
            "up",
            "--num-cpus",
            "2",
            "--object-store-gb",
            "0.2",
            "--dashboard-port",
            str(free_port()),
            *(["--monitor", f"--prometheus-port={free_port()}"] if MONITORED else []),
        ]
        result = CliRunner().invoke(app, ["--home", str(home), "--json", *arguments])
    assert result.exit_code == 0, result.exception
    values = json.loads(result.stdout)
    assert values.pop("started") is True
    return ClusterState.model_validate(values)


def test_a_second_up_returns_the_first(home: Path, state: ClusterState) -> None:
    assert cluster.up(home) == (state, False)


def test_only_the_token_opens_the_dashboard(state: ClusterState) -> None:
    url = state.dashboard_url + "/api/jobs/"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers=state.headers()).status_code == 200
    assert state.token_file is not None
    assert state.token_file.stat().st_mode & 0o777 == 0o600


def test_every_port_is_on_loopback(state: ClusterState) -> None:
    assert state.temp_dir is not None
    for process in cluster_processes.members(state.temp_dir, state.pid):
        for connection in process.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip.endswith("127.0.0.1"), (process, connection)


def test_jobs_are_followed_and_their_failures_told(
    home: Path, state: ClusterState, proxy: RecordingProxy, tmp_path: Path
) -> None:
    (tmp_path / "toy_stage.py").write_text(STAGE)
    environment = {"PYTHONPATH": str(tmp_path)}
    lines: list[str] = []

    def run(what: str) -> None:
        submit_and_follow(
            state, [what], f"toy {what}", LineProgress(lines.append, 1.0), environment, entrypoint_module="toy_stage"
        )

    run("good")
    assert {"answer 42", f"proxy {proxy.url}"} <= set(lines), "the work sees the user's proxy"
    assert not any("Running entrypoint" in line for line in lines)
    run("count")
    assert any(line.startswith("Lesen – 読む: ") and " of 40 samples, " in line for line in lines), lines
    assert "remark" in lines
    # The job may take a while to end after its last task, and the following command is not silent meanwhile.
    assert any(line.startswith("Lesen – 読む: 40 samples in ") for line in lines), lines
    assert lines[-1].startswith("toy count: done in ")
    assert not any("LEADER-PROGRESS" in line for line in lines)
    read = ray_jobs.read_log(state, "last")
    assert sum("読む" in line for line in read) <= 6
    assert not any("LEADER-PROGRESS" in line for line in read)
    with pytest.raises(UserError, match=r"^No data set is at DIR; run prepare\.$"):
        run("bad input")
    with pytest.raises(RunError, match=r"(?s)raysubmit_.* \(toy crash\) failed.*the sky fell"):
        run("crash")

    result = CliRunner().invoke(app, ["--home", str(home), "--json", "cluster", "status"])
    status = json.loads(result.stdout)
    jobs = {job["name"]: job["status"] for job in status["jobs"]}
    assert jobs == {"toy good": "SUCCEEDED", "toy count": "SUCCEEDED", "toy bad input": "FAILED", "toy crash": "FAILED"}
    assert status["resources"]["CPU"] == {"total": 2.0, "available": 2.0}
    assert [node["state"] for node in status["nodes"]] == ["ALIVE"]


def test_a_job_whose_terminal_is_gone_is_listed_read_followed_and_stopped(
    home: Path, state: ClusterState, tmp_path: Path
) -> None:
    (tmp_path / "toy_stage.py").write_text(STAGE)

    def leader(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--home", str(home), "--json", "jobs", *arguments])

    lines: queue.Queue[str] = queue.Queue()

    def follow() -> None:
        with suppress(RunError):
            submit_and_follow(
                state, ["wait"], "toy wait", LineProgress(lines.put), {"PYTHONPATH": str(tmp_path)}, "toy_stage"
            )

    terminal = threading.Thread(target=follow, daemon=True)
    terminal.start()
    while lines.get(timeout=60) != "waiting":
        pass
    first = json.loads(leader("list").stdout)["jobs"][0]
    assert (first["name"], first["status"]) == ("toy wait", "RUNNING")
    assert json.loads(leader("logs").stdout)["lines"] == ["waiting"]
    assert json.loads(leader("stop", first["job_id"]).stdout)["stopped"] is True
    terminal.join(timeout=60)
    assert not terminal.is_alive()
    attached = leader("attach", first["job_id"])
    assert "waiting" in attached.stderr
    assert str(attached.exception) == f"Job {first['job_id']} (toy wait) was stopped."
    assert json.loads(leader("stop", "last").stdout)["stopped"] is False
    assert "`leader jobs list` names" in str(leader("logs", "raysubmit_none").exception)


@pytest.mark.skipif(not MONITORED, reason="Prometheus is not installed (Debian: prometheus)")
def test_prometheus_tells_how_training_goes(home: Path, state: ClusterState, tmp_path: Path) -> None:
    (tmp_path / "toy_stage.py").write_text(STAGE)
    assert state.prometheus_url is not None
    client = ray_jobs._client(state)
    entrypoint = f"{sys.executable} -m toy_stage train"
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}})
    try:
        found: dict[str, float] = {}
        deadline = time.monotonic() + 110
        while set(found) < {"loss", "validation_prauc"} and time.monotonic() < deadline:
            time.sleep(2)
            query = {"query": '{__name__=~"ray_leader_training_.+", stage="teacher"}'}
            answer = httpx.get(f"{state.prometheus_url}/api/v1/query", params=query, trust_env=False).json()
            for result in answer["data"]["result"]:
                found[result["metric"]["__name__"].removeprefix("ray_leader_training_")] = float(result["value"][1])
        assert found == {"loss": 0.25, "validation_prauc": 0.5}
    finally:
        client.stop_job(job)
    rules = httpx.get(f"{state.prometheus_url}/api/v1/rules", trust_env=False).json()["data"]["groups"]
    assert {rule["name"] for group in rules for rule in group["rules"]} >= {"LeaderErrors"}
    shown = json.loads(CliRunner().invoke(app, ["--home", str(home), "--json", "dashboard"]).stdout)
    assert shown["prometheus"] == state.prometheus_url


def test_the_cluster_is_found_by_its_addresses(
    home: Path, state: ClusterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.find(home, None) == cluster.find(home, state.address) == state
    assert state.token_file is not None
    elsewhere = home / "elsewhere"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(UserError, match="refuses the token"):
        cluster.find(elsewhere, state.dashboard_url)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(state.token_file))
    found = cluster.find(elsewhere, state.dashboard_url)
    assert found is not None
    assert cluster.status(found)["nodes"]


def test_down_leaves_nothing(home: Path, state: ClusterState, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Not even where TMPDIR is another than when the cluster was started.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert state.temp_dir is not None
    members = cluster_processes.members(state.temp_dir, state.pid)
    assert len(members) > 10
    result = CliRunner().invoke(app, ["--home", str(home), "--json", "cluster", "down"])
    assert json.loads(result.stdout) == {"stopped": True}
    # Zombies are gone but for their parent's notice of it.
    assert [each for each in members if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    kept = {"head.log", "lock"} | ({"prometheus"} if MONITORED else set())
    assert {path.name for path in (home / "cluster").iterdir()} == kept
    assert not state.temp_dir.exists()
    assert cluster.find(home, None) is None


def test_nothing_on_loopback_was_asked_of_the_proxy(state: ClusterState, proxy: RecordingProxy) -> None:
    """By none of the commands above, nor by what they started. The proxy itself records."""
    httpx.get("http://other.invalid:1")
    assert proxy.requests.pop() == "GET http://other.invalid:1/"
    assert [request for request in proxy.requests if "ray.io" in request] == [], "no telemetry"
    assert [request for request in proxy.requests if re.search(r"127\.0\.|0\.0\.0\.0|localhost|::1", request)] == []

"""A run deployed on a cluster of its own, for the benchmarks of serving; and load on it by `wrk`."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from leader_platform.cluster import ClusterState, find
from leader_platform.data.dataset import PreparedData
from leader_serve.dashboard import Dashboard
from leader_serve.schemas import request_of_sample

NUM_CPUS = 2
PATH = "/v1/recommendations"
_WRK_SCRIPT = """
local bodies, sent = {}, 0
function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
  wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
end
function request()
  sent = sent % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[sent])
end
function done(summary, latency, requests)
  local failed = 0
  for _, number in pairs(summary.errors) do failed = failed + number end
  io.write(string.format('{"rps": %.1f, "failed": %d, "p50": %.3f, "p95": %.3f, "p99": %.3f}\\n',
    summary.requests / summary.duration * 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Load:
    """What `wrk` saw: requests a second, failures, and percentiles of milliseconds."""

    rps: float
    failed: int
    p50: float
    p95: float
    p99: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt-get install wrk.")


def require_run(home: Path) -> tuple[str, str]:
    """The data set and the run of a workspace that `leader quickstart` made."""
    data, run = home / "data", home / "runs" / "default"
    if not (data / "manifest.json").is_file() or not (run / "student").is_dir():
        sys.exit(f"{home} has no data set and run; make them with `leader quickstart`, or name a workspace by --home.")
    return str(data), str(run)


def sample_requests(data: str, number: int, **asked: Any) -> list[dict[str, Any]]:
    """Requests of test samples, the same ones again where there are too few; `asked` is added to each."""
    rows = PreparedData(data).samples("test").to_pylist()
    return [{**request_of_sample(rows[index % len(rows)]), **asked} for index in range(number)]


def reordered(requests: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same requests with each visit's codes in another order: as much to read, and no prompt that an engine would
    remember from before."""
    rng = random.Random(seed)

    def visit(codes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {kind: rng.sample(list(chosen), len(chosen)) for kind, chosen in codes.items()}

    return [{**request, "visits": [visit(codes) for codes in request["visits"]]} for request in requests]


def wrk(url: str, requests: Sequence[Mapping[str, Any]], connections: int, seconds: float) -> Load:
    """Post the requests in turn, one after the other on each connection."""
    with tempfile.TemporaryDirectory() as folder:
        script, bodies = Path(folder, "post.lua"), Path(folder, "bodies.jsonl")
        script.write_text(_WRK_SCRIPT)
        bodies.write_text("".join(json.dumps(request) + "\n" for request in requests))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script)]
        told = subprocess.run([*command, url, "--", str(bodies)], capture_output=True, text=True, check=True)
    return Load(**json.loads(told.stdout.splitlines()[-1]))


def wait_until_answering(url: str, request: Mapping[str, Any], process: subprocess.Popen[Any] | None = None) -> Any:
    """The answer to a request, asked again until the server is up."""
    deadline = time.monotonic() + 120
    while True:
        try:
            answer = httpx.post(url, json=request, timeout=60, trust_env=False)
            if answer.status_code == 200:
                return answer.json()
            told = f"{answer.status_code} {answer.text[:500]}"
        except httpx.HTTPError as error:
            told = type(error).__name__
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            sys.exit(f"{url} does not answer: {told}")
        time.sleep(0.3)


@dataclass(frozen=True)
class Deployment:
    """The `leader` command in a workspace of its own whose cluster is up."""

    home: Path
    port: int
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def leader(self, *arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "leader"), f"--home={self.home}", f"--set=serve.port={self.port}"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=dict(self.environment))
        if done.returncode:
            sys.exit(f"leader {' '.join(arguments)} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout

    def state(self) -> ClusterState:
        state = find(self.home, None)
        assert state is not None
        return state

    def replica_pids(self, application: str, deployment: str) -> list[int]:
        """Processes of a deployment's replicas that answer now."""
        dashboard = Dashboard(self.state().dashboard_url, self.state().token())
        found = dashboard.details()["applications"].get(application, {}).get("deployments", {})
        replicas = found.get(deployment, {}).get("replicas", [])
        return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]


@contextmanager
def cluster(settings: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Deployment]:
    """A cluster of two cores on this machine, ended at the end of the block; `environment` is set before Ray starts."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LEADER_"))}
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Path(folder), free_port(), own | dict(environment or {}))
        deployment.leader("cluster", "up", f"--num-cpus={NUM_CPUS}", f"--dashboard-port={free_port()}")
        try:
            yield deployment
        finally:
            deployment.leader("cluster", "down")

"""Requests per second and latency of the student path, beside other servers with the same student.

Usage: leader quickstart; python benchmarks/serve.py [--home workspace/quickstart] [--seconds 8] [--only NAME ...]

Ours runs by its defaults, with two replicas. Every server answers the same patients of the test split with the same
JSON, on two cores that `wrk` shares with it, one server after the other. `uvicorn` is a bare FastAPI application with
one worker that answers a patient at a time; LitServe and BentoML run as their documentation has it, without and with
their batching. Both come with `pip install -e '.[benchmarks]'`, in an environment of its own, since they disagree with
other packages about versions, and without the package `mcp`, of which LitServe cannot read the newer releases.
`serve-default` is our graph under Ray Serve's own settings: its Python proxy, the student as a deployment, actor calls,
access log. The router's own time is that of a routed answer less that of the model, by itself in one process. The last
line is JSON; of the two ways to run LitServe and BentoML it has the faster.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

import deployment as bench
from deployment import Load
from leader_serve.deploy import deploy

CONCURRENCY = (1, 16, 64)
NUM_REQUESTS = 64
# Ray Serve's own values of what `leader cluster up` sets.
_SERVE_DEFAULTS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
}


@contextmanager
def ours(run: str, settings: Sequence[str] = ()) -> Iterator[str]:
    with bench.cluster() as deployment:
        deployment.leader(*settings, "serve", "deploy", "--run", run, "--no-teacher")
        yield deployment.url


@contextmanager
def serve_default(run: str) -> Iterator[str]:
    with bench.cluster(environment=_SERVE_DEFAULTS) as deployment:
        settings = ("--set=serve.student=deployment", "serve", "deploy", "--run", run, "--no-teacher", "--dry-run")
        plan = yaml.safe_load(deployment.leader(*settings))
        for part in (plan, *plan["applications"]):
            del part["logging_config"]
        deploy(deployment.state().dashboard_url, plan, token=deployment.state().token())
        yield deployment.url


@contextmanager
def peer(run: str, *command: str) -> Iterator[str]:
    """A server of one of the files beside this one; PORT in its command becomes a free port."""
    with tempfile.TemporaryDirectory() as folder:
        port, log = str(bench.free_port()), Path(folder, "log")
        own = {"LEADER_RUN": run, "PORT": port, "OMP_NUM_THREADS": "1", "BENTOML_HOME": folder}
        environment = {**os.environ, **own, "BENTOML_DO_NOT_TRACK": "True", "LITSERVE_DISABLE_TELEMETRY": "1"}
        with log.open("w") as written:
            process = subprocess.Popen(
                [sys.executable, *(port if word == "PORT" else word for word in command)],
                env=environment,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=Path(__file__).parent,
            )
        try:
            yield f"http://127.0.0.1:{port}"
        except SystemExit as error:
            raise SystemExit(f"{error}\n{log.read_text()[-2000:]}") from None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server and the workers that it started."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait()


def sides(run: str) -> dict[str, Callable[[], Any]]:
    """How each server is started."""
    bentoml = ("-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", "PORT", "--working-dir", ".", "--quiet")
    return {
        "ours": lambda: ours(run),
        "uvicorn": lambda: peer(run, "serve_peers.py", "uvicorn"),
        "ours-one-replica": lambda: ours(run, ["--set=serve.student_replicas=1"]),
        "ours-without-serve": lambda: peer(run, "serve_peers.py", "ours-without-serve"),
        "ours-student-apart": lambda: ours(run, ["--set=serve.student=deployment"]),
        "serve-default": lambda: serve_default(run),
        "litserve": lambda: peer(run, "serve_litserve.py"),
        "litserve-batched": lambda: peer(run, "serve_litserve.py", "batched"),
        "bentoml": lambda: peer(run, *bentoml, "serve_bentoml:Single"),
        "bentoml-batched": lambda: peer(run, *bentoml, "serve_bentoml:Batched"),
    }


# What BentoML wants around a request's own JSON: its method's argument.
WRAPPERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bentoml": lambda request: {"request": request},
    "bentoml-batched": lambda request: {"requests": [request]},
}


def measure(name: str, url: str, requests: list[dict[str, Any]], seconds: float) -> tuple[dict[int, Load], Any]:
    """The load at each concurrency, and the answer to the first request."""
    wrapped = [WRAPPERS.get(name, lambda request: request)(request) for request in requests]
    address = url + bench.PATH
    answer = bench.wait_until_answering(address, wrapped[0])
    bench.wrk(address, wrapped, 16, min(3.0, seconds))  # to warm up
    return {number: bench.wrk(address, wrapped, number, seconds) for number in CONCURRENCY}, answer


def microseconds_of_routing(number: int = 3000) -> float:
    """Median over requests of what the router adds to a model that answers at once."""
    from leader_platform.config import ServeConfig
    from leader_platform.data.records import PatientRecord, Visit
    from leader_serve.prediction import ModelCard, Prediction, Query
    from leader_serve.router import Ask, Router
    from leader_serve.schemas import ModelChoice

    class AtOnce:
        async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
            return [Prediction("v", 0.5, (("ATC:C09A", 0.9),), {}, ()) for _ in queries]

        async def describe(self) -> ModelCard:
            return ModelCard("v", 0.5, 1)

    async def compare() -> float:
        visit = Visit(("ICD10CM:I10",), (), ())
        query, model = Query(PatientRecord({}, (visit,), visit)), AtOnce()
        router, times = Router(model, model, ServeConfig()), []
        for _ in range(number):
            began = time.perf_counter()
            await model.predict([query])
            between = time.perf_counter()
            await router.recommend(Ask(ModelChoice.AUTO, query))
            times.append((time.perf_counter() - between) - (between - began))
        return statistics.median(times) * 1e6

    return asyncio.run(compare())


def compare(home: Path, seconds: float, only: Sequence[str]) -> None:
    bench.require_wrk()
    data, run = bench.require_run(home)
    requests = bench.sample_requests(data, NUM_REQUESTS, model="student")
    lengths = [len(json.dumps(request)) for request in requests]
    print(f"{NUM_REQUESTS} requests of {statistics.median(lengths):.0f} bytes (median)")
    print(f"\n{'requests/s, then p50 / p95 / p99 ms, at concurrency':<52}{'failed':>8}")
    loads: dict[str, dict[int, Load]] = {}
    expected: list[str] | None = None
    for name, side in sides(run).items():
        package = name.split("-")[0]
        if only and name not in only:
            continue
        if package in ("litserve", "bentoml") and importlib.util.find_spec(package) is None:
            print(f"{name}: not installed, see the usage")
            continue
        with side() as url:
            loads[name], answer = measure(name, url, requests, seconds)
        answered = answer[0] if isinstance(answer, list) else answer
        codes = [medication["code"] for medication in answered["medications"]]
        if expected is None:
            expected = codes
        assert codes == expected, f"{name} answers otherwise"
        for number, load in loads[name].items():
            print(
                f"{name:<20}{number:>4}{load.rps:>8.0f}   {load.p50:6.1f} /{load.p95:7.1f} /{load.p99:7.1f}"
                f"{load.failed:>8}",
                flush=True,
            )
    print(f"\nthe router's own time: {microseconds_of_routing():.0f} microseconds a request")
    print(json.dumps(summary({name: load[16] for name, load in loads.items()})))


def summary(at_16: dict[str, Load]) -> dict[str, Any]:
    """The ratios at concurrency 16; what was not measured is null."""

    def best(name: str) -> float | None:
        found = [load.rps for other, load in at_16.items() if other in (name, f"{name}-batched")]
        return round(max(found), 1) if found else None

    ours, uvicorn = at_16.get("ours"), at_16.get("uvicorn")
    both = ours is not None and uvicorn is not None
    names = {"ours": "ours", "uvicorn": "uvicorn", "litserve": "litserve", "bentoml": "bentoml"}
    return {
        "ratio_to_uvicorn_c16": round(ours.rps / uvicorn.rps, 3) if both else None,
        "p99_ratio_c16": round(ours.p99 / uvicorn.p99, 3) if both else None,
        "rps": {told: best(name) for told, name in {**names, "serve_default": "serve-default"}.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("workspace/quickstart"))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--only", nargs="+", default=[], help="names of servers to measure")
    arguments = parser.parse_args()
    compare(arguments.home, arguments.seconds, arguments.only)


if __name__ == "__main__":
    main()

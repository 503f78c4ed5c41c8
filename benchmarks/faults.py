"""What callers see of serving's faults, under a steady load: requests lost, refused, degraded, and the time to recover.

Usage: leader quickstart; python benchmarks/faults.py [--home workspace/quickstart] [--rate 60] [--only NAME ...]
       python benchmarks/faults.py --soak 10

The load is an open loop: requests leave at a steady rate whatever the answers do, one in twenty for a first visit,
which goes to the teacher. Two replicas of student and ingress and one teacher (vLLM) share two cores with the load.
Each fault has a minute: ten seconds undisturbed, then the fault. A request is lost if no answer came, whatever the
reason; a 5xx is explained if it tells the caller when to come again (Retry-After). `recovery_s` is from the fault until
what it broke answers again: both students, the teacher, the new run, the latency after an overload. `--soak` watches
the memory of all processes of the application for so many minutes instead. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import resource
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

import deployment as bench
from deployment import Deployment
from leader_serve.releases import APPLICATION, TEACHER_APPLICATIONS

TEACHER_APPLICATION = TEACHER_APPLICATIONS["stable"]
NUM_STUDENTS = 2
FIRST_VISIT_EVERY = 20
# A flood from one address would run out of ports for connections that were closed just now.
_OWN_ADDRESSES = tuple(f"127.0.0.{number}" for number in range(2, 10))
SECONDS_BEFORE, SECONDS_OF_FAULT = 10.0, 50.0
SETTINGS = (f"--set=serve.student_replicas={NUM_STUDENTS}", "--set=serve.min_confidence=0")  # first visits alone


@dataclass(frozen=True)
class Outcome:
    """One request: when it was sent, how long it took, and what came. `status` 0: nothing did."""

    sent_at: float
    seconds: float
    status: int
    retry_after: bool = False
    degraded: bool = False
    told: str = ""

    @property
    def unexplained(self) -> bool:
        return self.status >= 500 and not self.retry_after


class Traffic:
    """Requests at a steady rate from a thread of its own, in a `with` block; their outcomes after it."""

    def __init__(self, url: str, requests: Sequence[dict[str, Any]], rate: float) -> None:
        self._url, self._requests, self._rate = url + bench.PATH, requests, rate
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send_all()))
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    async def _send_all(self) -> None:
        limit, began, number = aiohttp.ClientTimeout(total=100), time.monotonic(), 0
        tasks = set()
        async with AsyncExitStack() as opened:
            sessions = [
                await opened.enter_async_context(
                    aiohttp.ClientSession(timeout=limit, connector=aiohttp.TCPConnector(limit=0, local_addr=(own, 0)))
                )
                for own in _OWN_ADDRESSES
            ]
            while not self._stopped.is_set():
                session = sessions[number % len(sessions)]
                task = asyncio.create_task(self._send(session, self._requests[number % len(self._requests)]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / self._rate - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _send(self, session: aiohttp.ClientSession, request: dict[str, Any]) -> None:
        sent_at = time.monotonic()
        try:
            async with session.post(self._url, json=request) as response:
                body = await response.read()
                degraded = response.status == 200 and json.loads(body)["degraded"]
                told = "" if response.status == 200 else body[:200].decode(errors="replace")
                seen = (response.status, "Retry-After" in response.headers, degraded, told)
        except (aiohttp.ClientError, TimeoutError) as error:
            seen = (0, False, False, f"{type(error).__name__} {getattr(error, 'strerror', '')}")
        self.outcomes.append(Outcome(sent_at, time.monotonic() - sent_at, *seen))


@dataclass(frozen=True)
class Served:
    """What the faults are done to."""

    deployment: Deployment
    run: str
    other_run: str
    requests: list[dict[str, Any]]
    for_teacher: dict[str, Any]

    def students(self) -> list[int]:
        return self.deployment.replica_pids(APPLICATION, "Ingress")

    def teacher(self) -> list[psutil.Process]:
        """The teacher's replica and its engine."""
        (pid,) = self.deployment.replica_pids(TEACHER_APPLICATION, "Teacher")
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    def deploy(self, run: str, *options: str) -> None:
        self.deployment.leader(*SETTINGS, "serve", "deploy", "--run", run, *options)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 150) -> float:
    """Seconds until it is so, or infinity."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        if is_so():
            return time.monotonic() - began
        time.sleep(0.25)
    return float("inf")


def _teacher_answers(served: Served) -> bool:
    import httpx

    try:
        answer = httpx.post(served.deployment.url + bench.PATH, json=served.for_teacher, timeout=10, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def kill_student(served: Served) -> float:
    victim = served.students()[0]
    psutil.Process(victim).kill()
    return wait_until(lambda: len(set(served.students()) - {victim}) == NUM_STUDENTS)


def kill_teacher(served: Served) -> float:
    served.teacher()[0].kill()
    return wait_until(lambda: _teacher_answers(served))


def hang_teacher(served: Served) -> float:
    """Stopped for twenty seconds, as by a machine that swaps; the time counts from when it goes on."""
    processes = served.teacher()
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(20)
    for process in processes:
        if process.is_running():
            process.send_signal(signal.SIGCONT)
    return wait_until(lambda: _teacher_answers(served))


def redeploy(served: Served) -> float:
    began = time.monotonic()
    served.deploy(served.other_run)
    return time.monotonic() - began


def canary_and_rollback(served: Served) -> float:
    began = time.monotonic()
    served.deploy(served.run, "--canary", "10", "--no-teacher")
    time.sleep(5)
    served.deployment.leader(*SETTINGS, "serve", "rollback")
    return time.monotonic() - began


FAULTS: dict[str, Callable[[Served], float]] = {
    "student_killed": kill_student,
    "teacher_killed": kill_teacher,
    "teacher_hanging": hang_teacher,
    "redeploy": redeploy,
    "canary_and_rollback": canary_and_rollback,
}


def under_load(served: Served, fault: Callable[[Served], float], rate: float) -> dict[str, Any]:
    with Traffic(served.deployment.url, served.requests, rate) as traffic:
        time.sleep(SECONDS_BEFORE)
        at = time.monotonic()
        recovery = fault(served)
        time.sleep(max(0.0, at + SECONDS_OF_FAULT - time.monotonic()))
    return told(traffic.outcomes, recovery)


def told(outcomes: Sequence[Outcome], recovery: float) -> dict[str, Any]:
    """What came of the requests; a recovery that was waited for in vain is null."""
    failures = Counter(f"{o.status} {o.told}" for o in outcomes if o.status != 200 and not o.retry_after)
    for failure, number in failures.most_common(5):
        print(f"    {number} x {failure}")
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return {
        "sent": len(outcomes),
        "lost": sum(outcome.status == 0 for outcome in outcomes),
        "unexplained_5xx": sum(outcome.unexplained for outcome in outcomes),
        "refused": sum(outcome.status >= 500 and outcome.retry_after for outcome in outcomes),
        "degraded": sum(outcome.degraded for outcome in outcomes),
        "p50_ms": round(1e3 * statistics.median(seconds), 1),
        "p99_ms": round(1e3 * seconds[int(0.99 * len(seconds))], 1),
        "recovery_s": round(recovery, 1) if math.isfinite(recovery) else None,
    }


def overload(served: Served, rate: float) -> dict[str, Any]:
    """Five times what the application answers at its best, then the steady load again."""
    capacity = bench.wrk(served.deployment.url + bench.PATH, served.requests, 16, 5).rps
    flood = [{**request, "model": "student"} for request in served.requests]
    print(f"    capacity {capacity:.0f} requests/s, offered {5 * capacity:.0f}")
    with Traffic(served.deployment.url, flood, 5 * capacity) as traffic:
        time.sleep(SECONDS_OF_FAULT)
    ended = time.monotonic()
    with Traffic(served.deployment.url, served.requests, rate) as after:
        time.sleep(SECONDS_BEFORE)
    usual = statistics.median(outcome.seconds for outcome in after.outcomes[len(after.outcomes) // 2 :])
    slow = [o.sent_at + o.seconds for o in after.outcomes if o.status != 200 or o.seconds > max(0.25, 5 * usual)]
    return told([*traffic.outcomes, *after.outcomes], max(slow, default=ended) - ended)


def memory_mb(served: Served) -> float:
    """Proportional set size of the replicas and engines."""
    pids = {*served.students(), *(process.pid for process in served.teacher())}
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 2**20


def soak(served: Served, minutes: float, rate: float) -> dict[str, Any]:
    samples = []
    with Traffic(served.deployment.url, served.requests, rate) as traffic:
        began = time.monotonic()
        while (now := (time.monotonic() - began) / 60) < minutes:
            samples.append((now, memory_mb(served)))
            print(f"    minute {now:4.1f}: {samples[-1][1]:.0f} MB", flush=True)
            time.sleep(30)
    settled = [(minute, size) for minute, size in samples if minute >= minutes / 3]
    slope = statistics.linear_regression(*zip(*settled, strict=True)).slope
    memory = {"mb_first": round(settled[0][1], 1), "mb_last": round(settled[-1][1], 1), "mb_a_minute": round(slope, 2)}
    return {**told(traffic.outcomes, 0.0), **memory}


def mixed_requests(data: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Requests of which one in twenty is a first visit's, and one for the teacher by name."""
    found = bench.sample_requests(data, 200)
    first = [request for request in found if len(request["visits"]) == 1]
    later = [request for request in found if len(request["visits"]) > 1]
    firsts, laters = itertools.cycle(first), itertools.cycle(later)
    mixed = [next(laters if index % FIRST_VISIT_EVERY else firsts) for index in range(200)]
    return mixed, {**first[0], "model": "teacher"}


def allow_connections() -> None:
    """An open loop holds as many connections as requests wait; the usual limit of 1,024 would lose some here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measure(home: Path, rate: float, only: Sequence[str], minutes: float) -> None:
    bench.require_wrk()
    allow_connections()
    data, run = bench.require_run(home)
    requests, for_teacher = mixed_requests(data)
    faults: dict[str, Callable[[Served], dict[str, Any]]] = {
        name: lambda served, fault=fault: under_load(served, fault, rate) for name, fault in FAULTS.items()
    }
    faults["overload"] = lambda served: overload(served, rate)
    if minutes:
        faults = {"soak": lambda served: soak(served, minutes, rate)}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, bench.cluster() as deployment:
        other_run = str(Path(folder, "other"))
        shutil.copytree(run, other_run)
        served = Served(deployment, run, other_run, requests, for_teacher)
        served.deploy(run)
        wait_until(lambda: _teacher_answers(served))
        for name, fault in faults.items():
            if only and name not in only:
                continue
            print(name, flush=True)
            found[name] = fault(served)
            print(f"    {found[name]}", flush=True)
    print(json.dumps({"faults": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("workspace/quickstart"))
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--only", nargs="+", default=[], help="names of faults")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    arguments = parser.parse_args()
    measure(arguments.home, arguments.rate, arguments.only, arguments.soak)


if __name__ == "__main__":
    main()

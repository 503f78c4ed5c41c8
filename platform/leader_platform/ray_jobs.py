"""Stages as Ray jobs: submitted to a cluster, followed line by line, their failure told in the stage's own sentence."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from leader_platform.cluster_state import ClusterState, get_json
from leader_platform.errors import RunError, UserError, find_cause
from leader_platform.progress import Progress, Status, line_of, read_mark
from leader_platform.ray_environment import call_directly

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# A failing job's last line: this word, the exit code, the sentence.
ERROR_PREFIX = "LEADER-ERROR "
# Ray's own remarks at the head of every log; the first has the whole command in it.
_RAYS_OWN = (
    "Running entrypoint for job",
    "Runtime env is setting up",
    "Set ray log level from environment variable",
    "No cloud storage mirror configured",
    "Triton is installed, but",
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_SILENCE_S = 60.0
_LOST_AFTER_S = 60.0
_STOP_PATIENCE_S = 30.0


def submit_and_follow(
    state: ClusterState,
    arguments: list[str],
    name: str,
    progress: Progress,
    working_environment: dict[str, str] | None = None,
    entrypoint_module: str = "leader_jobs",
    writes: str | None = None,
) -> None:
    """Run `python -m leader_jobs ARGUMENTS` as a job called `name`, showing its log and its tasks by `progress`.

    The job's folder is not the caller's: paths in `arguments` must be absolute. Raises `UserError` or `RunError` with
    the sentence that the job printed, `RunError` with its last lines if it printed none. Ctrl-C leaves the job running;
    a second job that `writes` to the same place is refused meanwhile, since it would begin by removing the first one's
    unfinished work.
    """
    # Another machine's Python lies elsewhere; there the job takes what its environment calls python.
    python = sys.executable if state.pid is not None else "python"
    with progress.task(name):
        client = _client(state)
        if writes is not None:
            _refuse_second(state, writes)
        job_id = client.submit_job(
            entrypoint=shlex.join([python, "-m", entrypoint_module, *arguments]),
            metadata={"name": name} | ({"writes": writes} if writes else {}),
            runtime_env={"env_vars": working_environment} if working_environment else None,
        )
        _watch(client, job_id, name, progress)


def attach(state: ClusterState, job_id: str, progress: Progress) -> None:
    """Follow a job that runs, or ran, from its first line, as the command did that submitted it."""
    job = find_job(state, job_id)
    name = job["name"] or job["job_id"]
    with progress.task(f"Following {name}"):
        _watch(_client(state), job["job_id"], name, progress)


def read_log(state: ClusterState, job_id: str) -> list[str]:
    """The lines of a job's log so far, without Ray's own remarks."""
    job = find_job(state, job_id)
    lines: list[tuple[int | None, str]] = []  # each with the task that it is about

    def add_tasks(statuses: list[Status]) -> None:
        # Only the last of what one task reported in a row.
        if lines and lines[-1][0] == statuses[-1].id:
            lines.pop()
        lines.append((statuses[-1].id, line_of(statuses)))

    log = _Log(lambda line: lines.append((None, line)), add_tasks)
    log.take(_client(state).get_job_logs(job["job_id"]), 0)
    log.close()
    texts = [text for _, text in lines]
    return texts if log.error is None else [*texts, _failure(log.error)[1]]


def stop(state: ClusterState, job_id: str) -> bool:
    """Stop a job and wait until it is; False if it had ended."""
    job, client = find_job(state, job_id), _client(state)
    if job["status"] in ENDED:
        return False
    client.stop_job(job["job_id"])
    deadline = time.monotonic() + _STOP_PATIENCE_S
    while client.get_job_status(job["job_id"]).value not in ENDED:
        if time.monotonic() > deadline:
            raise RunError(f"Job {job['job_id']} has not stopped after {_STOP_PATIENCE_S:.0f} s; see the dashboard.")
        time.sleep(0.5)
    return True


def find_job(state: ClusterState, job_id: str) -> dict[str, Any]:
    """A job of the cluster; `last` is the one that was submitted last. `UserError` where there is none."""
    jobs = list_jobs(state)
    if not jobs:
        raise UserError("The cluster has no jobs; `leader train` submits one.")
    found = jobs[0] if job_id == "last" else next((job for job in jobs if job["job_id"] == job_id), None)
    if found is None:
        raise UserError(f"The cluster has no job {job_id}; `leader jobs list` names {len(jobs)}.")
    return found


def _watch(client: JobSubmissionClient, job_id: str, name: str, progress: Progress) -> None:
    try:
        with progress.mirror() as mirror:
            log = _Log(progress.log, mirror.show)
            asyncio.run(_follow(client, job_id, log))
            _raise_failure(client, job_id, name, log)
    except KeyboardInterrupt:
        progress.log(
            f"Job {job_id} goes on; `leader jobs attach` follows it again, `leader jobs stop {job_id}` ends it."
        )
        raise


def _refuse_second(state: ClusterState, writes: str) -> None:
    for job in list_jobs(state):
        if job["writes"] == writes and job["status"] not in ENDED:
            raise UserError(
                f"Job {job['job_id']} ({job['name']}) still writes to {writes}; wait for it, or stop it with "
                f"`leader jobs stop {job['job_id']}`."
            )


def list_jobs(state: ClusterState) -> list[dict[str, Any]]:
    """The jobs submitted to the cluster, latest first: id, name, what it writes, status, start and end (seconds since
    1970)."""
    submitted = [job for job in get_json(state, "/api/jobs/") if job["submission_id"]]
    jobs = [
        {
            "job_id": job["submission_id"],
            "name": (job.get("metadata") or {}).get("name"),
            "writes": (job.get("metadata") or {}).get("writes"),
            "status": job["status"],
            "started_at": job["start_time"] / 1000 if job.get("start_time") else None,
            "ended_at": job["end_time"] / 1000 if job.get("end_time") else None,
        }
        for job in submitted
    ]
    return sorted(jobs, key=lambda job: job["started_at"] or 0.0, reverse=True)


@contextmanager
def tell_failure() -> Iterator[None]:
    """In a job: end it with the error's sentence as its last line, which the command that follows it turns back."""
    try:
        yield
    except Exception as error:
        cause = find_cause(error, (UserError, RunError))
        if cause is None:
            raise
        code = 2 if isinstance(cause, UserError) else 1
        print(f"{ERROR_PREFIX}{code} {cause}", flush=True)
        sys.exit(code)


class _Log:
    """A job's log as it comes in: chunks of any length in, whole lines and tasks out, the error line kept back."""

    def __init__(self, on_line: Callable[[str], object], on_tasks: Callable[[list[Status]], object]) -> None:
        self.num_seen = 0
        self.error: str | None = None
        self.last: deque[str] = deque(maxlen=5)
        self._on_line, self._on_tasks = on_line, on_tasks
        self._rest = ""

    def take(self, text: str, position: int) -> None:
        """`text` begins `position` characters into the log; what was seen before is skipped."""
        fresh = text[max(0, self.num_seen - position) :]
        self.num_seen += len(fresh)
        *lines, self._rest = (self._rest + fresh).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = ""

    def _line(self, line: str) -> None:
        if line.startswith(ERROR_PREFIX):
            self.error = line
            return
        line, statuses = read_mark(line)
        if statuses:
            self._on_tasks(statuses)
            if not line:
                return
        if not any(remark in line for remark in _RAYS_OWN):
            self.last.append(line)
            self._on_line(line)


async def _follow(client: JobSubmissionClient, job_id: str, log: _Log) -> None:
    """Read the job's log until the job has ended, beginning again at what was seen when the connection breaks."""
    last_contact = time.monotonic()
    while True:
        try:
            seen = log.num_seen
            await _tail(client, job_id, log)
            if log.num_seen > seen:
                last_contact = time.monotonic()
            ended = client.get_job_status(job_id).value in ENDED
            last_contact = time.monotonic()
            if ended:
                # What came between the last chunk and the end, had the connection broken there.
                log.take(client.get_job_logs(job_id), 0)
                log.close()
                return
        except (ConnectionError, RuntimeError, OSError) as error:
            if time.monotonic() - last_contact > _LOST_AFTER_S:
                raise RunError(f"The cluster does not answer any more while job {job_id} runs ({error}).") from None
        await asyncio.sleep(1.0)


async def _tail(client: JobSubmissionClient, job_id: str, log: _Log) -> None:
    import aiohttp

    position = 0
    chunks = client.tail_job_logs(job_id)
    try:
        # A connection that dies without a word would otherwise keep us waiting for ever.
        while (chunk := await asyncio.wait_for(anext(chunks, None), _SILENCE_S)) is not None:
            log.take(chunk, position)
            position += len(chunk)
    except (RuntimeError, OSError, TimeoutError, aiohttp.ClientError):
        return


def _raise_failure(client: JobSubmissionClient, job_id: str, name: str, log: _Log) -> None:
    status = client.get_job_status(job_id).value
    if status == "SUCCEEDED":
        return
    if status == "STOPPED":
        raise RunError(f"Job {job_id} ({name}) was stopped.")
    if log.error is not None:
        code, sentence = _failure(log.error)
        raise UserError(sentence) if code == "2" else RunError(sentence)
    lines = list(log.last) or [client.get_job_info(job_id).message or "it printed nothing"]
    raise RunError(f"Job {job_id} ({name}) failed; its last lines:\n" + "\n".join(lines))


def _failure(line: str) -> tuple[str, str]:
    """Exit code and sentence of a failing job's last line."""
    code, _, sentence = line.removeprefix(ERROR_PREFIX).partition(" ")
    return code, sentence


def _client(state: ClusterState) -> JobSubmissionClient:
    # First a request with a sentence for each way to fail; the client has tracebacks.
    get_json(state, "/api/version")
    from ray.job_submission import JobSubmissionClient

    # As our own requests to a dashboard, Ray's go to it without a proxy, which would be handed the token.
    call_directly(urlsplit(state.dashboard_url).hostname or "")
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        # Ray's client prefers these variables to the address that it is given.
        return JobSubmissionClient(state.dashboard_url, headers=state.headers())


@contextmanager
def _without(*names: str) -> Iterator[None]:
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)

"""What a command asks of the jobs, as data: the same request runs in this process or as a Ray job on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import DataConfig, LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.machine import limit_threads
from leader_platform.progress import Progress
from leader_platform.ray_session import ray_session


class Request(BaseModel):
    """One job. Paths are absolute or URIs: a job's folder is not its caller's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["prepare", "train", "tune", "evaluate"]
    config: LeaderConfig
    data: str
    run: str | None = None
    raw: str | None = None
    source: str = "mimic4"
    terminology: str | None = None
    stage: str = "all"
    trials: int = 0
    resume: bool = False
    force: bool = False
    only: bool = False

    @property
    def name(self) -> str:
        """What the dashboard calls the job."""
        return f"leader {self.kind}" + (f" --stage {self.stage}" if self.kind == "train" else "")

    @property
    def writes(self) -> str:
        """The directory that only one job at a time may write."""
        return self.run or self.data

    @property
    def reads_and_writes(self) -> tuple[str | None, ...]:
        """What every node that takes part must see, where it is there."""
        return (self.raw, self.terminology, self.data, self.run, self.config.teacher.backbone)


def run_request(request: Request, progress: Progress, address: str | None = None) -> Any:
    """Do what is asked on the cluster at `address`, the one this job runs on, or a Ray of its own."""
    limit_threads(of_torch=request.kind == "evaluate")  # which computes in this process
    if request.kind == "prepare":
        return _prepare(request, progress, address)
    data, run = PreparedData(request.data), Run(request.run or "")
    # What is recorded beside a product must be what the data was made with, not what this command's recipe says.
    as_prepared = DataConfig.model_validate(data.manifest["data_config"])
    if as_prepared != request.config.data:
        progress.log("The data.* settings are those that the data set was prepared with.")
    request = request.model_copy(update={"config": request.config.model_copy(update={"data": as_prepared})})
    if request.kind == "train":
        return _train(request, data, run, progress, address)
    if request.kind == "tune":
        return _tune(request, data, run, progress, address)
    return _evaluate(request, data, run, progress, address)


@contextmanager
def _ray(progress: Progress, address: str | None) -> Iterator[None]:
    """A Ray session, whose start and end take seconds."""
    with ExitStack() as stopping, ExitStack() as session:
        with progress.task("Starting Ray"):
            session.enter_context(ray_session(address=address))
        session.callback(lambda: stopping.enter_context(progress.task("Stopping Ray")))
        yield


def _prepare(request: Request, progress: Progress, address: str | None) -> Any:
    from leader_jobs.prepare import PrepareArguments, check, prepare

    assert request.raw is not None
    arguments = PrepareArguments(request.source, request.raw, request.data, request.terminology)
    check(arguments, request.config)  # before Ray starts: a wrong path should not take seconds
    with _ray(progress, address):
        return prepare(arguments, request.config, progress)


def _train(request: Request, data: PreparedData, run: Run, progress: Progress, address: str | None) -> list[str]:
    from leader_jobs import pipeline
    from leader_jobs.checks import check_stages

    options = {"resume": request.resume, "force": request.force, "only": request.only}
    steps = pipeline.plan(request.stage, data, run, request.config, request.force, request.only)
    if not steps:
        return pipeline.train(request.stage, data, run, request.config, progress, **options)
    check_stages(steps, run, request.config)
    storage.require_writable(run.uri)
    with _ray(progress, address):
        return pipeline.train(request.stage, data, run, request.config, progress, **options)


def _tune(request: Request, data: PreparedData, run: Run, progress: Progress, address: str | None) -> None:
    from leader_jobs import tune
    from leader_jobs.checks import check_stages

    options = {"resume": request.resume, "only": request.only}
    missing = tune.check(data, run, request.config, request.trials, **options)
    check_stages(missing, run, request.config)
    storage.require_writable(run.uri)
    with _ray(progress, address):
        tune.tune_student(data, run, request.config, request.trials, progress, **options)


def _evaluate(request: Request, data: PreparedData, run: Run, progress: Progress, address: str | None) -> Any:
    from leader_jobs.evaluate import check, evaluate, trains

    check(run, request.config)
    # Only what trains needs a Ray; to judge what is there, none is started.
    training = trains(request.config.evaluate)
    if training:
        storage.require_writable(run.uri)
    with _ray(progress, address) if training else nullcontext():
        return evaluate(data, run, request.config, progress, request.force)

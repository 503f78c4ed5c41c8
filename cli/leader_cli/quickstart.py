"""`leader quickstart`: the whole main job on the embedded default, ending with a recommendation over HTTP."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leader_cli.cluster import find_cluster
from leader_cli.console import Settings, log, progress, settings_of, show
from leader_cli.data import summary_tables as data_tables
from leader_cli.recommend import answer_tables, remark, service_url
from leader_cli.submit import submit
from leader_cli.tables import rich_tables
from leader_platform.errors import UserError
from leader_platform.ports import require_free, take_port

if TYPE_CHECKING:
    from leader_jobs.quickstart_plan import Plan
    from leader_platform.cluster import ClusterState
    from leader_serve.schemas import RecommendationAnswer

CONFIGURATION = "quickstart.yaml"  # in the workspace: all settings of the run


def quickstart(
    context: typer.Context,
    minutes: Annotated[
        float | None,
        typer.Option(min=1, help="Minutes that it may take: cohort, prompts, depth and steps fit them [10 at most]."),
    ] = None,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Patients of the synthetic cohort [chosen by --minutes].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic cohort.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster and the application running.")] = False,
) -> None:
    """Synthesise patients, prepare, tune, distill, evaluate, serve, and recommend, on a local cluster of its own."""
    from leader_jobs.quickstart_plan import DEFAULT_MINUTES
    from leader_platform import cluster

    started_at = time.monotonic()
    settings, plan = _planned(_with_free_serve_port(_own_workspace(context)), minutes, patients)
    context.obj = settings
    patients = patients or plan.size.patients
    budget = minutes or DEFAULT_MINUTES
    _show_plan(context, plan, budget, patients)
    state, _ = cluster.up(settings.home, dashboard_port=take_port(cluster.DASHBOARD_PORT, "Ray's dashboard", log))
    log(f"Ray dashboard: {state.dashboard_url}")
    try:
        answer = _main_job(context, settings, state, patients, seed, keep)
    finally:
        if not keep:
            with progress.task("Stopping the cluster"):
                cluster.down(settings.home)
    run, took = settings.run(None), _took(time.monotonic() - started_at)
    result = {"run": run, "answer": answer.model_dump(mode="json"), "expected_s": plan.by_step(), "took_s": took}
    show(context, result, *answer_tables(answer), _step_table(plan, took))
    remark(answer)
    log(f"Done in {(time.monotonic() - started_at) / 60:.1f} minutes, of {budget:g} that it might take.")
    log(f"The run is in {run}, its metrics in {run}/evaluation/metrics.json, the data set in {settings.data(None)}.")
    file = settings.home / CONFIGURATION
    log(f"Again, or elsewhere: leader --config {shlex.quote(str(file))} quickstart --patients {patients} --seed {seed}")


def _planned(settings: Settings, minutes: float | None, patients: int | None) -> tuple[Settings, Plan]:
    """The settings with those that fit the budget on this machine, which are stored in the workspace; a user's own
    settings stand above them."""
    from leader_jobs.quickstart_plan import plan
    from leader_jobs.speed import SpeedRequest, measure_speed
    from leader_platform.config import to_yaml
    from leader_platform.machine import usable_cores

    config = settings.config()
    threads = config.resources.on([{"CPU": usable_cores()}]).threads
    with progress.task("Measuring what this machine does"):
        teacher, use_gpu = config.teacher, config.resources.gpus_per_worker > 0
        speed = measure_speed(SpeedRequest(teacher=teacher, num_threads=threads, use_gpu=use_gpu, repeats=2))
    log(
        f"With {speed.depth:.0%} of its layers {config.teacher.backbone} reads {speed.read_tokens_per_s:,.0f} tokens/s "
        f"in {speed.read_dtype} and tunes on {speed.train_tokens_per_s:,.0f} tokens/s in {speed.train_dtype}."
    )
    chosen = plan(minutes, speed, lambda changes: replace(settings, planned=changes).config(), patients)
    settings = replace(settings, planned=chosen.size.settings())
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / CONFIGURATION).write_text(to_yaml(settings.config()))
    return settings, chosen


def _show_plan(context: typer.Context, plan: Plan, minutes: float, patients: int) -> None:
    config = settings_of(context).config()
    log(
        f"Plan: {patients} patients, prompts of at most {config.prompt.max_tokens} tokens, "
        f"{config.teacher.depth:.0%} of the layers, {config.teacher.max_steps} LoRA steps: "
        f"about {plan.seconds / 60:.1f} minutes."
    )
    if plan.seconds > 60 * minutes:
        log(f"No smaller plan fits {minutes:g} minutes on this machine.", style="yellow")
    if not settings_of(context).as_json:
        show(context, None, _step_table(plan))


def _step_table(plan: Plan, took: dict[str, float] | None = None) -> Table:
    table = Table(
        "Step", "Expected, min", *(["Took, min"] if took else []), title="Plan" if took is None else "Minutes"
    )
    for step in plan.steps:
        cells = [step.name, f"{step.seconds / 60:.1f}"]
        table.add_row(*cells, *([f"{took.get(step.name, 0.0) / 60:.1f}"] if took else []))
    total = ["all", f"{plan.seconds / 60:.1f}"]
    table.add_row(*total, *([f"{sum(took.values()) / 60:.1f}"] if took else []))
    return table


def _took(seconds: float) -> dict[str, float]:
    """Seconds of each step of the plan, as the tasks of their names took, of `seconds` in all."""
    from leader_jobs.quickstart_plan import AROUND, STEPS

    took = dict.fromkeys(STEPS, 0.0)
    for ended in progress.ended:
        if ended.name in took:
            took[ended.name] += ended.seconds
    return took | {AROUND: seconds - sum(took.values())}


def _own_workspace(context: typer.Context) -> Settings:
    """The quickstart's settings, with a workspace below the user's: it writes data and models and ends its cluster, and
    must do neither to what a user has. Refuses to share a cluster that is up."""
    from leader_platform import cluster

    settings = settings_of(context)
    own = replace(settings, home=settings.home / "quickstart", address=None)
    running = find_cluster(context) or cluster.find(own.home, None)
    if running is not None:
        raise UserError(
            f"A cluster already runs at {running.address}, and the quickstart starts and ends one of its own; end it "
            f"with `leader cluster down` (or `leader --home {own.home} cluster down`), or unset RAY_ADDRESS."
        )
    return replace(own, recipe="quickstart") if settings.recipe == "default" else own


def _with_free_serve_port(settings: Settings) -> Settings:
    """The settings with a port on which the application can listen at the end. `UserError` where the user's own choice
    is taken: better now than after the training."""
    serve = settings.config().serve
    if settings.is_set("serve.port"):
        require_free(serve.port, "--set serve.port=", serve.host)
        return settings
    port = take_port(serve.port, "the application", log, serve.host)
    return replace(settings, overrides=(*settings.overrides, f"serve.port={port}"))


def _main_job(
    context: typer.Context, settings: Settings, state: ClusterState, patients: int, seed: int, keep: bool
) -> RecommendationAnswer:
    from leader_jobs.quickstart_plan import DATA, EVALUATE, SERVE
    from leader_jobs.requests import Request
    from leader_platform import storage
    from leader_platform.artifacts import EVALUATION
    from leader_platform.data.dataset import PreparedData
    from leader_platform.evaluation_tables import summary_tables
    from leader_platform.runs import METRICS_FILE
    from leader_serve import deploy
    from leader_serve.plans import prepare

    config, data, run = settings.config(), settings.data(None), settings.run(None)
    raw = settings.home / "raw" / f"synthetic-{patients}-{seed}"
    _headline(1, f"Synthetic cohort: {patients} patients as raw MIMIC-IV tables, and the data set prepared from it")
    with progress.task(DATA):
        _synthesise(raw, patients, seed)
        submit(context, Request(kind="prepare", config=config, data=data, raw=str(raw)))
    if not settings.as_json:
        show(context, None, *data_tables(PreparedData(data)))
    _headline(2, "Teacher, its features by vLLM, and the student distilled from it")
    submit(context, Request(kind="train", stage="all", config=config, data=data, run=run))
    _headline(3, "The same student without a teacher, for comparison")
    submit(context, Request(kind="train", stage="student", config=config, data=data, run=run))
    _headline(4, "Evaluation")
    with progress.task(EVALUATE):
        submit(context, Request(kind="evaluate", config=config, data=data, run=run))
    if not settings.as_json:
        result = storage.read_json(storage.join(run, EVALUATION, METRICS_FILE))
        show(context, None, *rich_tables(summary_tables(result)))
    _headline(5, "Serving, and one recommendation over HTTP")
    with progress.task(SERVE):
        plan = prepare(run, config, progress=progress)
        deploy.deploy(state.dashboard_url, plan, progress=progress, token=state.token())
        return _recommend(settings, service_url(config.serve))


def _headline(number: int, text: str) -> None:
    log(f"[{number}/5] {text}", style="bold")


def _synthesise(raw: Path, patients: int, seed: int) -> None:
    from leader_platform.data.synthetic import write_raw

    if raw.is_dir():
        log(f"Already in {raw}")
        return
    counts = write_raw("mimic4", raw, patients, seed)
    log(f"{counts.admissions:,} admissions in {raw}")


def _recommend(settings: Settings, url: str) -> RecommendationAnswer:
    """Ask for a patient on a first visit, which goes to the teacher, and for one with a history, whom the student
    answers; both from the test split, which no model was trained on. Returns the student's answer."""
    from leader_serve.client import LeaderClient

    with LeaderClient(url, timeout=120) as client:
        for first_visit in (True, False):
            request = _test_patient(settings, first_visit)
            file = settings.home / f"patient-{'first-visit' if first_visit else 'with-history'}.json"
            file.write_text(json.dumps(request, indent=2) + "\n")
            asked_at = time.monotonic()
            answer = client.recommend(request)
            took_ms = 1000 * (time.monotonic() - asked_at)
            log(
                f"{file.name}: {len(answer.medications)} medications from the {answer.model} "
                f"({answer.route.reason}) in {took_ms:.0f} ms"
            )
    return answer


def _test_patient(settings: Settings, first_visit: bool) -> dict[str, Any]:
    """A sample of the test split as the JSON of a request."""
    from leader_platform.data.dataset import PreparedData
    from leader_serve.schemas import request_of_sample

    rows = PreparedData(settings.data(None)).samples("test").to_pylist()
    return request_of_sample(next((row for row in rows if (row["prior_visits"] == 0) == first_visit), rows[0]))

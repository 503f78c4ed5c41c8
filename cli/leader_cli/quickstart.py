"""`leader quickstart`: the whole main job on the embedded default, ending with a recommendation over HTTP."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leader_cli.cluster import find_cluster
from leader_cli.console import Settings, say, settings_of, show
from leader_cli.data import summary_tables as data_tables
from leader_cli.recommend import answer_tables, remark, service_url
from leader_cli.submit import submit
from leader_cli.tables import rich_tables
from leader_platform.errors import UserError
from leader_platform.ports import require_free, take_port

if TYPE_CHECKING:
    from leader_platform.cluster import ClusterState
    from leader_serve.schemas import RecommendationAnswer


def quickstart(
    context: typer.Context,
    patients: Annotated[int, typer.Option(help="Patients of the synthetic cohort.")] = 240,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic cohort.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster and the application running.")] = False,
) -> None:
    """Synthesise patients, prepare, tune, distill, evaluate, serve, and recommend, on a local cluster of its own."""
    from leader_platform import cluster

    settings = context.obj = _with_free_serve_port(_own_workspace(context))
    started_at = time.monotonic()
    state, _ = cluster.up(settings.home, dashboard_port=take_port(cluster.DASHBOARD_PORT, "Ray's dashboard", say))
    say(f"Ray dashboard: {state.dashboard_url}")
    try:
        answer = _main_job(context, settings, state, patients, seed, keep)
    finally:
        if not keep:
            say("Stopping the cluster")
            cluster.down(settings.home)
    run = settings.run(None)
    show(context, {"run": run, "answer": answer.model_dump(mode="json")}, *answer_tables(answer))
    remark(answer)
    say(f"Done in {(time.monotonic() - started_at) / 60:.1f} minutes.")
    say(f"The run is in {run}, its metrics in {run}/evaluation/metrics.json, the data set in {settings.data(None)}.")


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
    port = take_port(serve.port, "the application", say, serve.host)
    return replace(settings, overrides=(*settings.overrides, f"serve.port={port}"))


def _main_job(
    context: typer.Context, settings: Settings, state: ClusterState, patients: int, seed: int, keep: bool
) -> RecommendationAnswer:
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
    _headline(1, f"Synthetic cohort: {patients} patients as raw MIMIC-IV tables")
    _synthesise(raw, patients, seed)
    _headline(2, "Prepared data set")
    submit(context, Request(kind="prepare", config=config, data=data, raw=str(raw)))
    if not settings.as_json:
        show(context, None, *data_tables(PreparedData(data)))
    _headline(3, "Teacher, its features by vLLM, and the student distilled from it")
    submit(context, Request(kind="train", stage="all", config=config, data=data, run=run))
    _headline(4, "The same student without a teacher, for comparison")
    submit(context, Request(kind="train", stage="student", config=config, data=data, run=run))
    _headline(5, "Evaluation")
    submit(context, Request(kind="evaluate", config=config, data=data, run=run))
    if not settings.as_json:
        result = storage.read_json(storage.join(run, EVALUATION, METRICS_FILE))
        show(context, None, *rich_tables(summary_tables(result)))
    _headline(6, "Serving, and one recommendation over HTTP")
    plan = prepare(run, config, say=say)
    deploy.deploy(state.dashboard_url, plan, on_progress=say, token=state.token())
    try:
        return _recommend(settings, service_url(config.serve))
    finally:
        if not keep:
            deploy.shutdown(state.dashboard_url, state.token())


def _headline(number: int, text: str) -> None:
    say(f"[{number}/6] {text}", style="bold")


def _synthesise(raw: Path, patients: int, seed: int) -> None:
    from leader_platform.data.synthetic import write_raw

    if raw.is_dir():
        say(f"Already in {raw}")
        return
    counts = write_raw("mimic4", raw, patients, seed)
    say(f"{counts.admissions:,} admissions in {raw}")


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
            say(
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

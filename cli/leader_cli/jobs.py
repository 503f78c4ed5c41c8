"""`leader jobs`: the stages that run on the cluster, which go on when the terminal that began them is gone."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from leader_cli.cluster import require_cluster
from leader_cli.console import log, progress, settings_of, show

app = typer.Typer(help="List, follow and stop the stages that run on the cluster as jobs.", no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Its id, or `last`.")]


@app.command("list")
def list_jobs(context: typer.Context) -> None:
    """The jobs of the cluster, latest first."""
    from leader_platform import ray_jobs

    jobs = ray_jobs.list_jobs(require_cluster(context))
    table = Table("job", "name", "status", "writes", "minutes")
    for job in jobs:
        minutes = ((job["ended_at"] or time.time()) - job["started_at"]) / 60 if job["started_at"] else 0.0
        table.add_row(job["job_id"], job["name"] or "", job["status"], job["writes"] or "", f"{minutes:.1f}")
    show(context, {"jobs": jobs}, table)


@app.command()
def logs(context: typer.Context, job: Job = "last") -> None:
    """What a job has printed so far."""
    from leader_platform import ray_jobs

    lines = ray_jobs.read_log(require_cluster(context), job)
    if settings_of(context).as_json:
        show(context, {"lines": lines})
    else:
        typer.echo("\n".join(lines))


@app.command()
def attach(context: typer.Context, job: Job = "last") -> None:
    """Follow a job to its end, and end as it ends."""
    from leader_platform import ray_jobs

    ray_jobs.attach(require_cluster(context), job, progress)


@app.command()
def stop(context: typer.Context, job: Job = "last") -> None:
    """End a job; what its stages have finished stays, and `--resume` goes on from it."""
    from leader_platform import ray_jobs

    cluster = require_cluster(context)
    job_id = ray_jobs.find_job(cluster, job)["job_id"]
    with progress.task(f"Stopping {job_id}"):
        stopped = ray_jobs.stop(cluster, job_id)
    show(context, {"job_id": job_id, "stopped": stopped})
    log(f"Job {job_id} is stopped." if stopped else f"Job {job_id} had ended.")

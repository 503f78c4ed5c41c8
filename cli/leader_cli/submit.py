"""A request to the jobs: as a Ray job where a cluster is up, else in this process on a Ray of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leader_cli.cluster import find_cluster
from leader_cli.console import log, progress

if TYPE_CHECKING:
    import typer

    from leader_jobs.requests import Request


def submit(context: typer.Context, request: Request) -> None:
    """Run the request to its end, showing its progress; raises the job's own error when it fails."""
    state = find_cluster(context)
    if state is None:
        from leader_jobs.requests import run_request

        with progress.task(request.name):
            run_request(request, progress)
        return
    from leader_platform.ray_jobs import submit_and_follow

    if state.pid is None:  # not this workspace's own, which runs on this machine with this software
        from leader_jobs.preflight import check_cluster

        check_cluster(state, request.reads_and_writes, progress)
    log(f"Running as a job on {state.address}; dashboard {state.dashboard_url}")
    submit_and_follow(state, [request.model_dump_json()], request.name, progress, writes=request.writes)

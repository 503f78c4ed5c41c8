"""`leader serve`: the HTTP application on a running cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leader_cli.console import say, settings_of, show
from leader_platform.errors import UserError

if TYPE_CHECKING:
    from leader_platform.cluster import ClusterState

app = typer.Typer(name="serve", help="Deploy the HTTP application on the running cluster.", no_args_is_help=True)


@app.command()
def deploy(
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="Run directory or URI [runs/default in the workspace].")] = None,
    no_teacher: Annotated[bool, typer.Option("--no-teacher", help="Serve the student alone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print Serve's config and deploy nothing.")] = False,
) -> None:
    """Deploy a run's student and teacher, and wait until they answer."""
    from leader_serve import deploy as deployment

    settings = settings_of(context)
    config = settings.config()
    plan = deployment.prepare(settings.run(run), config, with_teacher=not no_teacher, say=say)
    if dry_run:
        _print_config(settings.as_json, plan)
        return
    cluster = _cluster(context)
    say(f"Deploying on {cluster.address}.")
    deployment.deploy(cluster.dashboard_url, plan, on_progress=say, token=cluster.token())
    result = deployment.status(cluster.dashboard_url, cluster.token())
    show(context, result, _table(result))
    say(f"It answers at {result['url']}; its documentation is at {result['url']}/docs.")


@app.command()
def status(context: typer.Context) -> None:
    """What is deployed, and whether it is healthy."""
    from leader_serve import deploy as deployment

    cluster = _cluster(context)
    result = deployment.status(cluster.dashboard_url, cluster.token())
    show(context, result, _table(result))


@app.command()
def shutdown(context: typer.Context) -> None:
    """Take the application away and free its port."""
    from leader_serve import deploy as deployment

    cluster = _cluster(context)
    removed = deployment.shutdown(cluster.dashboard_url, cluster.token())
    show(context, {"removed": removed})
    say("The application is gone." if removed else "No application was deployed.")


def _cluster(context: typer.Context) -> ClusterState:
    from leader_platform.cluster import find

    settings = settings_of(context)
    cluster = find(settings.home, settings.address)
    if cluster is None:
        raise UserError("No cluster is running; start one with `leader cluster up`.")
    return cluster


def _print_config(as_json: bool, plan: dict[str, Any]) -> None:
    import json

    import yaml

    typer.echo(json.dumps(plan, indent=2) if as_json else yaml.safe_dump(plan, sort_keys=False).rstrip())


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['status']}  {result['url'] or ''}".strip(), title_justify="left")
    for heading in ("deployment", "status", "replicas", "message"):
        table.add_column(heading)
    for name, deployment in result["deployments"].items():
        replicas = f"{deployment['replicas']}/{deployment['target_replicas']}"
        table.add_row(name, deployment["status"], replicas, deployment["message"].strip())
    return table

"""`leader serve`: the HTTP application on a running cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leader_cli.cluster import require_cluster
from leader_cli.console import Settings, log, progress, settings_of, show

if TYPE_CHECKING:
    from leader_platform.config import LeaderConfig

app = typer.Typer(name="serve", help="Deploy the HTTP application on the running cluster.", no_args_is_help=True)
keys = typer.Typer(name="keys", help="Who may call the application.", no_args_is_help=True)
app.add_typer(keys)


@app.command()
def deploy(
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="Run directory or URI [runs/default in the workspace].")] = None,
    no_teacher: Annotated[bool, typer.Option("--no-teacher", help="Serve the student alone.")] = False,
    canary: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Per cent of the requests that go to this run, beside the one that answers."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print Serve's config and deploy nothing.")] = False,
) -> None:
    """Deploy a run's student and teacher, and wait until they answer."""
    from leader_platform import storage
    from leader_serve import deploy as deployment
    from leader_serve.plans import prepare

    settings = settings_of(context)
    config = _with_keys_file(settings)
    # What a plan without a canary is, no cluster needs to be asked.
    cluster = None if dry_run and canary is None else require_cluster(context)
    running = None if cluster is None else deployment.running(cluster.dashboard_url, cluster.token())
    plan = prepare(settings.run(run), config, not no_teacher, progress, running, canary)
    if dry_run:
        _print_config(settings.as_json, plan)
        return
    if cluster is not None and cluster.pid is None:
        from leader_jobs.preflight import check_cluster

        check_cluster(cluster, [storage.absolute(settings.run(run)), config.serve.keys_file], progress)
    _deploy(context, plan)


@app.command()
def rollback(context: typer.Context) -> None:
    """End the canary or, where there is none, return to the run that answered before."""
    from leader_serve import deploy as deployment
    from leader_serve.plans import prepare_rollback

    cluster = require_cluster(context)
    running = deployment.running(cluster.dashboard_url, cluster.token())
    _deploy(context, prepare_rollback(_with_keys_file(settings_of(context)), running))


def _deploy(context: typer.Context, plan: dict[str, Any]) -> None:
    from leader_serve import deploy as deployment

    cluster = require_cluster(context)
    log(f"Deploying on {cluster.address}.")
    deployment.deploy(cluster.dashboard_url, plan, progress, token=cluster.token(), forwarded=cluster.forwarded)
    result = deployment.status(cluster.dashboard_url, cluster.token())
    show(context, result, _table(result))
    beside = f", with {result['canary']} beside it" if result["canary"] else ""
    log(f"{result['run']} answers at {result['url']}{beside}; the documentation is at {result['url']}/docs.")


@app.command()
def status(context: typer.Context) -> None:
    """What is deployed, and whether it is healthy."""
    from leader_serve import deploy as deployment

    cluster = require_cluster(context)
    result = deployment.status(cluster.dashboard_url, cluster.token())
    show(context, result, _table(result))


@app.command()
def shutdown(context: typer.Context) -> None:
    """Take the application away and free its port."""
    from leader_serve import deploy as deployment

    cluster = require_cluster(context)
    removed = deployment.shutdown(cluster.dashboard_url, cluster.token(), progress)
    show(context, {"removed": removed})
    log("The application is gone." if removed else "No application was deployed.")


@keys.command("add")
def add_key(context: typer.Context, name: Annotated[str, typer.Argument(help="Whose key it is.")]) -> None:
    """Make a key and print it: the only time that it is told. Running replicas take it within seconds."""
    from leader_serve.keys import add_key

    path = settings_of(context).keys_file()
    key = add_key(path, name)
    show(context, {"name": name, "key": key, "keys_file": path})
    log(f"Its digest is in {path}. A caller presents the key as `Authorization: Bearer KEY`.")
    if not settings_of(context).as_json:
        typer.echo(key)


@keys.command("list")
def list_keys(context: typer.Context) -> None:
    """The names of the keys."""
    from leader_serve.keys import read_keys

    names = sorted(read_keys(settings_of(context).keys_file()))
    table = Table("key")
    for name in names:
        table.add_row(name)
    show(context, {"keys": names}, table)


@keys.command("remove")
def remove_key(context: typer.Context, name: Annotated[str, typer.Argument(help="Whose key it is.")]) -> None:
    """Take a key back. Running replicas refuse it within seconds."""
    from leader_serve.keys import remove_key

    path = settings_of(context).keys_file()
    remove_key(path, name)
    show(context, {"removed": name, "keys_file": path})
    log(f"The key {name} is no longer in {path}.")


def _with_keys_file(settings: Settings) -> LeaderConfig:
    """The configuration, with the workspace's key file where it has one and names no other."""
    from leader_platform import storage

    config, path = settings.config(), settings.keys_file()
    if not storage.exists(path):
        return config
    return config.model_copy(update={"serve": config.serve.model_copy(update={"keys_file": path})})


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

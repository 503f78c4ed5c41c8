"""`leader cluster`: a local Ray head with its dashboard, or the machines of a cluster file."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leader_cli.console import log, progress, settings_of, show
from leader_platform.progress import LineProgress, Progress

if TYPE_CHECKING:
    from leader_platform.cluster_state import ClusterState

app = typer.Typer(help="Start, look at and stop the Ray cluster that stages run on.", no_args_is_help=True)

ClusterFile = Annotated[Path | None, typer.Argument(help="A `ray up` cluster file; without it, this machine.")]


@app.command()
def up(
    context: typer.Context,
    cluster_yaml: ClusterFile = None,
    num_cpus: Annotated[int | None, typer.Option(help="CPU cores that Ray may hand out [all usable ones].")] = None,
    object_store_gb: Annotated[
        float | None, typer.Option(help="Memory for objects, GB [2, at most 15 % of memory].")
    ] = None,
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard, on loopback.", min=1, max=65535)] = 8265,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Start Prometheus beside it, where that is installed.")
    ] = False,
    prometheus_port: Annotated[int, typer.Option(help="Port of Prometheus, on loopback.", min=1, max=65535)] = 9090,
) -> None:
    """Start a Ray head on this machine with dashboard and token, or the machines of a cluster file."""
    from leader_platform import cluster, cluster_file
    from leader_platform.machine import usable_cores

    if cluster_yaml is not None:
        with _beside_ray().task(f"Starting {cluster_yaml}"):
            cluster_file.up(cluster_yaml)
        context.obj = replace(settings_of(context), address=str(cluster_yaml))
        state = require_cluster(context)
        cluster.wait_for_nodes(state, cluster_file.num_first_nodes(cluster_yaml), progress)
        result = cluster.status(state)
        show(context, result, *_status_tables(result))
        log(
            f"Next: leader --address {quote(str(cluster_yaml))} train --stage all · serve deploy · cluster status · "
            "dashboard"
        )
        return
    _refuse_address(context)
    if num_cpus is not None and num_cpus > usable_cores():
        log(f"--num-cpus {num_cpus}: this process may use {usable_cores()} CPU cores, which what runs will share.")
    log("Starting Ray ...")
    home, watching = settings_of(context).home, prometheus_port if monitor else None
    with progress.task("Starting Ray"):
        state, started = cluster.up(home, num_cpus, object_store_gb, dashboard_port, watching)
    result = {**state.model_dump(mode="json"), "started": started}
    table = _table("Ray cluster started" if started else "Ray cluster already running")
    table.add_row("Dashboard", state.dashboard_url)
    table.add_row(
        "Log in", f"the dashboard asks for a token: paste the line that `cat {quote(str(state.token_file))}` prints"
    )
    if state.prometheus_url:
        table.add_row("Prometheus", state.prometheus_url)
    table.add_row("Address", state.address)
    table.add_row(
        "Resources", f"{state.num_cpus:g} CPU, {state.num_gpus:g} GPU, {state.object_store_bytes:,} B object store"
    )
    table.add_row(
        "Next", "leader train --stage all · leader serve deploy · leader cluster status · leader cluster down"
    )
    show(context, result, table)


@app.command()
def status(context: typer.Context, cluster_yaml: ClusterFile = None) -> None:
    """Nodes, resources, jobs and Serve applications."""
    from leader_platform import cluster

    if cluster_yaml is not None:
        context.obj = replace(settings_of(context), address=str(cluster_yaml))
    result = cluster.status(require_cluster(context))
    show(context, result, *_status_tables(result))


@app.command()
def down(context: typer.Context, cluster_yaml: ClusterFile = None) -> None:
    """Stop the cluster and everything that it runs."""
    from leader_platform import cluster, cluster_file

    if cluster_yaml is not None:
        with _beside_ray().task(f"Stopping {cluster_yaml}"):
            cluster_file.down(cluster_yaml)
        return
    _refuse_address(context)
    home = settings_of(context).home
    with progress.task("Stopping the cluster"):
        stopped = cluster.down(home)
    text = f"stopped; its log is {home / 'cluster' / 'head.log'}" if stopped else f"none ran for {home}"
    show(context, {"stopped": stopped}, _rows("Ray cluster", {"Cluster": text}))


def dashboard(
    context: typer.Context,
    open_it: Annotated[bool, typer.Option("--open", help="Open Ray's dashboard in the web browser.")] = False,
) -> None:
    """Where to watch: Ray's dashboard, Prometheus, the application's documentation; and the token to log in with."""
    from leader_serve import deploy

    state = require_cluster(context)
    served = deploy.status(state.dashboard_url, state.token())
    result = {
        "dashboard": state.dashboard_url,
        "token_file": str(state.token_file) if state.token_file else None,
        "jobs": f"{state.dashboard_url}/#/jobs",
        "serve": f"{state.dashboard_url}/#/serve",
        "prometheus": state.prometheus_url,
        "application": f"{served['url']}/docs" if served["url"] else None,
    }
    show(context, result, _rows("Where to watch", {name: value for name, value in result.items() if value}))
    if open_it:
        typer.launch(state.dashboard_url)
    if state.forwarded:
        log(f"These addresses lead to the head of {state.address} until you press Ctrl-C.")
        threading.Event().wait()


def find_cluster(context: typer.Context) -> ClusterState | None:
    """The cluster that a command works on, or None where none is up. To one of a cluster file a connection stays open
    until the command ends."""
    from leader_platform import cluster, cluster_file

    settings = settings_of(context)
    if settings.address is None or not settings.address.endswith((".yaml", ".yml")):
        return cluster.find(settings.home, settings.address)
    reached: dict[str, ClusterState] = context.meta.setdefault("leader.reached", {})
    if settings.address not in reached:
        with progress.task(f"Connecting to the head of {settings.address}"):
            reached[settings.address] = context.with_resource(cluster_file.reach(Path(settings.address)))
    return reached[settings.address]


def require_cluster(context: typer.Context) -> ClusterState:
    """As `find_cluster`; `UserError` where none runs."""
    from leader_platform.errors import UserError

    state = find_cluster(context)
    if state is None:
        raise UserError(f"No cluster runs for {settings_of(context).home}; start one with `leader cluster up`.")
    return state


def _beside_ray() -> Progress:
    """Lines, on a terminal too: `ray up` writes to it by itself, and may ask there for a password."""
    return LineProgress(log)


def _refuse_address(context: typer.Context) -> None:
    from leader_platform.errors import UserError

    if address := settings_of(context).address:
        raise UserError(
            f"{address} (--address or RAY_ADDRESS) is a cluster that this command does not manage; "
            "give its cluster file, or leave the address out for the local one."
        )


def _status_tables(result: dict[str, Any]) -> list[Table]:
    facts = {"Dashboard": result["dashboard_url"], "Address": result["address"]}
    if result["prometheus_url"]:
        facts["Prometheus"] = result["prometheus_url"]
    if result["pid"]:
        facts |= {"Process": str(result["pid"]), "Up": f"{result['uptime_s']:,.0f} s", "Token": result["token_file"]}
    facts |= {
        name: f"{amount['available']:,.12g} of {amount['total']:,.12g} free"
        for name, amount in result["resources"].items()
    }
    facts |= {f"Serve: {name}": state for name, state in result["serve_applications"].items()}
    nodes = Table("Node", "State", "CPU", "GPU", "Memory", title="Nodes")
    for node in result["nodes"]:
        has, name = node["resources"], f"{node['node_ip']}{' (head)' if node['is_head_node'] else ''}"
        amounts = (f"{has.get('CPU', 0):g}", f"{has.get('GPU', 0):g}", f"{has.get('memory', 0) / 1e9:.1f} GB")
        nodes.add_row(name, node["state"].lower(), *amounts)
    tables = [_rows("Ray cluster", facts), nodes]
    if result["jobs"]:
        jobs = Table("Job", "Name", "Status", title="Jobs")
        for job in result["jobs"]:
            jobs.add_row(job["job_id"], job["name"] or "", job["status"])
        tables.append(jobs)
    return tables


def _rows(title: str, facts: dict[str, str]) -> Table:
    table = _table(title)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, show_header=False)
    # Addresses and paths are for copying: they must not be cut in two.
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table

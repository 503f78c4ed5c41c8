"""`leader`: the one command that drives the platform. Nothing here imports ray, torch or vllm; commands do when run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from leader_cli import cluster, data, deploy, evaluate, jobs, quickstart, recommend, runs, serve, train, tune
from leader_cli.console import Settings, default_home, log, remarks
from leader_platform import surroundings
from leader_platform.errors import RunError, UserError, find_cause
from leader_platform.ray_environment import call_directly

app = typer.Typer(
    name="leader",
    help="Tune a language model to recommend medications, distill it into a small student, and serve both, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # Typer's own markup would swallow `[data in the workspace]`
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.quickstart)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(runs.app, name="runs")
app.add_typer(cluster.app, name="cluster")
app.add_typer(jobs.app, name="jobs")
app.add_typer(deploy.app, name="deploy")
app.add_typer(serve.app, name="serve")
app.command("recommend")(recommend.recommend)
app.command("dashboard")(cluster.dashboard)


@app.callback()
def global_options(
    context: typer.Context,
    config: Annotated[str | None, typer.Option(help="Configuration file (YAML), a path or URI.")] = None,
    recipe: Annotated[str, typer.Option(help="Named configuration to begin with.")] = "default",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: student.width=128.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Workspace for data and runs [LEADER_HOME, else ./workspace].")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster: host:port, its dashboard's URL or its cluster file [RAY_ADDRESS]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    call_directly()
    context.obj = Settings(
        home=Path(os.path.expanduser(home or default_home())).absolute(),
        config_file=config,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        address=address or os.environ.get("RAY_ADDRESS"),
        as_json=as_json,
        debug=debug,
    )


@app.command("config")
def show_config(context: typer.Context) -> None:
    """Print the whole configuration: the recipe, the file's changes and every --set, as YAML (or --json)."""
    from leader_platform.config import to_yaml

    config = context.obj.config()
    typer.echo(config.model_dump_json(indent=2) if context.obj.as_json else to_yaml(config).rstrip())


def _end(number: int, _: object) -> None:
    """End by an exception, so that what a command started is ended too: a cluster has a session of its own, and would
    outlive a command that just dies."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command; errors become one sentence, exit code 2 for bad input and 1 for a failed run."""
    debug = "--debug" in sys.argv
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        surroundings.run_plainly()
        surroundings.set_up(log)
        app()
    except KeyboardInterrupt:
        remarks.print("Interrupted.")
        sys.exit(130)
    except Exception as error:
        cause = find_cause(error, (UserError, RunError))
        if cause is None and isinstance(error, OSError) and error.filename:
            cause = UserError(f"{error.filename}: {error.strerror}; check the path and its permissions.")
        if cause is None or debug:
            raise
        remarks.print(f"[red]Error:[/red] {escape(str(cause))}")
        sys.exit(2 if isinstance(cause, UserError) else 1)

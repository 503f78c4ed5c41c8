"""`leader runs`: the runs there are, and two of them beside each other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from leader_cli.console import Settings, log, progress, settings_of, show
from leader_cli.tables import rich_tables

app = typer.Typer(help="List and compare runs.", no_args_is_help=True)

_RUN = "A run: its name in the workspace, or a path or URI."


@app.command("list")
def list_runs(
    context: typer.Context,
    directory: Annotated[str | None, typer.Argument(help="A directory or URI of runs [runs in the workspace].")] = None,
) -> None:
    """Every run with its stages, its recipe, when it was finished, and its metrics where it was evaluated."""
    from leader_platform.runs import summaries
    from leader_platform.runs_tables import list_table

    where = directory or str(settings_of(context).home / "runs")
    runs = summaries(where)
    told = [{**asdict(run), "finished_at": run.finished_at} for run in runs]
    show(context, told, *rich_tables([list_table(f"Runs in {where}", runs)]))
    for run in runs:
        if run.remark:
            log(run.remark)


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(help=_RUN, show_default=False)],
    second: Annotated[str, typer.Argument(help=_RUN, show_default=False)],
) -> None:
    """The settings in which two runs differ and their metrics, paired where both judge the same samples."""
    from leader_platform import runs
    from leader_platform.artifacts import Run
    from leader_platform.runs_tables import comparison_tables

    settings = settings_of(context)
    with progress.task("Comparing the runs"):
        comparison = runs.compare(Run(_run(settings, first)), Run(_run(settings, second)))
    show(context, asdict(comparison), *rich_tables(comparison_tables(comparison)))
    if comparison.remark:
        log(comparison.remark)


def _run(settings: Settings, name: str) -> str:
    """A bare name is a run of the workspace."""
    return name if "/" in name else str(settings.home / "runs" / name)

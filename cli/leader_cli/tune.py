"""`leader tune`."""

from __future__ import annotations

from shlex import quote
from typing import Annotated, Any

import typer
from rich.table import Table

from leader_cli.console import log, settings_of, show
from leader_cli.submit import submit
from leader_cli.train import Data, RunOption


def tune(
    context: typer.Context,
    trials: Annotated[int, typer.Option(help="Settings to try; the configuration's own are the first.")] = 20,
    data: Data = None,
    run: RunOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
    only: Annotated[bool, typer.Option("--only", help="Refuse to run stages that the search needs.")] = False,
) -> None:
    """Search the student's settings with Ray Tune; the best become a file for `--config`."""
    from leader_jobs.requests import Request
    from leader_jobs.tune import RECIPE_FILE, TRIALS_FILE, TUNE
    from leader_platform.artifacts import Run
    from leader_platform.data.dataset import PreparedData
    from leader_platform.storage import read_parquet

    settings = settings_of(context)
    opened, made = PreparedData(settings.data(data)), Run(settings.run(run))
    request = Request(
        kind="tune",
        config=settings.config(),
        data=opened.uri,
        run=made.uri,
        trials=trials,
        resume=resume,
        only=only,
    )
    submit(context, request)
    rows = read_parquet(made.path(TUNE, TRIALS_FILE)).to_pylist()
    rows.sort(key=lambda row: row["best_prauc"], reverse=True)
    recipe = made.path(TUNE, RECIPE_FILE)
    show(context, {"run": made.uri, "recipe": recipe, "best": rows[0], "trials": rows}, trials_table(rows))
    log(
        f"The best settings are in {recipe}; `leader --config {quote(recipe)} train --run {quote(made.uri)}` trains "
        "with them."
    )


def trials_table(rows: list[dict[str, Any]], most_rows: int = 20) -> Table:
    """The best trials, one row each, best first."""
    shown = [name for name in rows[0] if name != "failure"]
    table = Table(*shown, title="Validation PRAUC of the best trials", title_justify="left")
    for row in rows[:most_rows]:
        table.add_row(*(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in shown))
    return table

"""`leader evaluate`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leader_cli.console import log, settings_of, show
from leader_cli.submit import submit
from leader_cli.tables import rich_tables
from leader_cli.train import Data, RunOption

if TYPE_CHECKING:
    from leader_platform.config import LeaderConfig


class Protocol(StrEnum):
    """As in `EvaluateConfig`, written again so that `--help` need not import it."""

    SPLIT = "split"
    CROSS_VALIDATION = "cross-validation"


def evaluate(
    context: typer.Context,
    data: Data = None,
    run: RunOption = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="`split` judges what the run has; `cross-validation` trains all models on folds by patient."),
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Folds of a cross-validation [5].")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings of each model, averaged [1].")] = None,
    models: Annotated[
        str | None, typer.Option(help="What to judge, by commas; a baseline of one's own is package.module:Class.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Judge again even if nothing changed.")] = False,
) -> None:
    """Metrics with 95% intervals for teacher, student and baselines, paired differences, and a page with plots.

    An interrupted cross-validation goes on with the fold, the model and the step that it had come to.
    """
    from leader_jobs.evaluate import PAGE_FILE
    from leader_jobs.requests import Request
    from leader_platform import storage
    from leader_platform.artifacts import EVALUATION, Run
    from leader_platform.data.dataset import PreparedData
    from leader_platform.evaluation_tables import summary_tables
    from leader_platform.runs import METRICS_FILE

    settings = settings_of(context)
    config = _with_options(settings.config(), protocol, folds, seeds, models)
    opened, made = PreparedData(settings.data(data)), Run(settings.run(run))
    submit(context, Request(kind="evaluate", config=config, data=opened.uri, run=made.uri, force=force))
    result = storage.read_json(made.path(EVALUATION, METRICS_FILE))
    show(context, result, *rich_tables(summary_tables(result)))
    log(f"The page is {made.path(EVALUATION, PAGE_FILE)}, the figures are in {METRICS_FILE} beside it.")


def _with_options(
    config: LeaderConfig, protocol: Protocol | None, folds: int | None, seeds: int | None, models: str | None
) -> LeaderConfig:
    """The configuration with the command's options in place of its `evaluate` settings, checked as a file's are."""
    from leader_platform.settings import with_values

    given: dict[str, Any] = {
        "protocol": protocol and protocol.value,
        "folds": folds,
        "num_seeds": seeds,
        "models": models and [name.strip() for name in models.split(",") if name.strip()],
    }
    return with_values(config, {"evaluate": {name: value for name, value in given.items() if value is not None}})

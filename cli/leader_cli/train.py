"""`leader train` and `leader evaluate`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from leader_cli.console import say, settings_of, show
from leader_cli.submit import submit


class StageName(StrEnum):
    """As in `leader_jobs.pipeline`, written again so that `--help` need not import it."""

    TEACHER = "teacher"
    FEATURES = "features"
    DISTILL = "distill"
    STUDENT = "student"
    ALL = "all"


Data = Annotated[str | None, typer.Option(help="Prepared data set [data in the workspace].")]
RunOption = Annotated[str | None, typer.Option(help="Run directory or URI [runs/default in the workspace].")]


def train(
    context: typer.Context,
    stage: Annotated[
        StageName, typer.Option(help="`student` trains it without a teacher, for comparison.")
    ] = StageName.ALL,
    data: Data = None,
    run: RunOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run the stage even if its product is current.")] = False,
    only: Annotated[bool, typer.Option("--only", help="Refuse to run stages that this one needs.")] = False,
) -> None:
    """Tune the teacher, generate its features, distill the student."""
    from leader_jobs.pipeline import GROUPS
    from leader_jobs.requests import Request
    from leader_platform.artifacts import Run
    from leader_platform.data.dataset import PreparedData
    from leader_platform.storage import absolute

    settings = settings_of(context)
    request = Request(
        kind="train",
        config=settings.config(),
        data=PreparedData(settings.data(data)).uri,  # opened here, so that a wrong path is told at once
        run=absolute(settings.run(run)),
        stage=stage.value,
        resume=resume,
        force=force,
        only=only,
    )
    submit(settings, request)
    assert request.run is not None
    made = Run(request.run)
    wanted = GROUPS.get(stage.value, (stage.value,))
    show(context, {"run": made.uri, "stages": list(wanted)})
    say(f"The run is in {made.uri}.")


def evaluate(
    context: typer.Context,
    data: Data = None,
    run: RunOption = None,
    force: Annotated[bool, typer.Option("--force", help="Evaluate again even if nothing changed.")] = False,
) -> None:
    """The paper's metrics for teacher, student and baselines, per group of visits."""
    from leader_jobs.evaluate import METRICS_FILE
    from leader_jobs.requests import Request
    from leader_platform import storage
    from leader_platform.artifacts import EVALUATION, Run
    from leader_platform.data.dataset import PreparedData

    settings = settings_of(context)
    opened, made = PreparedData(settings.data(data)), Run(settings.run(run))
    request = Request(kind="evaluate", config=settings.config(), data=opened.uri, run=made.uri, force=force)
    submit(settings, request)
    path = made.path(EVALUATION, METRICS_FILE)
    result = storage.read_json(path)
    show(context, result, *evaluation_tables(result))
    say(f"The metrics are in {path}.")


def evaluation_tables(result: dict[str, Any]) -> list[Table]:
    """One table a group of visits, one row a model."""
    title = f"Test split, labels: {result['label_window']}"
    table = Table("visits", "model", title=title, title_justify="left")
    for heading in ("samples", "PRAUC", "Jaccard", "F1", "DDI rate", "medications", "threshold"):
        table.add_column(heading, justify="right")
    groups = list(next(iter(result["models"].values()))["groups"])
    for group in groups:
        for name, model in result["models"].items():
            table.add_row(group, name, *_cells(model["groups"][group]), f"{model['threshold']:.2f}")
        table.add_section()
    own = result["prescriptions"]
    table.add_row(
        "all",
        "(the prescriptions)",
        "",
        "",
        "",
        "",
        _number(own["interaction_rate"]),
        _number(own["medications_per_visit"], 1),
        "",
    )
    return [table]


def _cells(report: dict[str, Any]) -> list[str]:
    figures = [_number(report.get(name)) for name in ("prauc", "jaccard", "f1", "interaction_rate")]
    return [str(report["samples"]), *figures, _number(report.get("medications_per_visit"), 1)]


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

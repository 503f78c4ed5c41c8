"""`leader train`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from leader_cli.console import log, settings_of, show
from leader_cli.submit import submit


class StageName(StrEnum):
    """As in `leader_jobs.pipeline`, written again so that `--help` need not import it."""

    TITLES = "titles"
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
    config: Annotated[
        str | None, typer.Option(help="Configuration file (YAML), such as what `leader tune` found.")
    ] = None,
) -> None:
    """Tune the teacher, generate its features, distill the student."""
    from leader_jobs.pipeline import stages_of
    from leader_jobs.requests import Request
    from leader_platform.artifacts import Run
    from leader_platform.data.dataset import PreparedData
    from leader_platform.storage import absolute

    settings = settings_of(context)
    settings = replace(settings, config_file=config) if config else settings
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
    submit(context, request)
    assert request.run is not None
    made = Run(request.run)
    show(context, {"run": made.uri, "stages": stages_of(stage.value, request.config)})
    log(f"The run is in {made.uri}.")

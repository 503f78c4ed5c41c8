"""`leader recommend`: one HTTP call, shown as tables."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leader_cli.console import log, progress, settings_of, show
from leader_platform.errors import UserError

if TYPE_CHECKING:
    from leader_platform.config import ServeConfig
    from leader_serve.schemas import RecommendationAnswer


class Model(StrEnum):
    """As in `leader_serve.schemas`, written again because that module is slower to import than `--help` may be."""

    AUTO = "auto"
    STUDENT = "student"
    TEACHER = "teacher"
    SHADOW = "shadow"


def recommend(
    context: typer.Context,
    patient: Annotated[Path, typer.Option(help="Request as JSON: patient, visits (the last one is current).")],
    url: Annotated[str | None, typer.Option(help="The application [http://HOST:PORT of the settings].")] = None,
    model: Annotated[Model | None, typer.Option(help="Who should answer [the file's, else auto].")] = None,
) -> None:
    """Recommend medications for the patient of a JSON file. Where keys are asked for, LEADER_API_KEY holds one."""
    from leader_serve.client import LeaderClient

    request = _read(patient)
    if model is not None:
        request["model"] = model.value
    config = settings_of(context).config().serve
    # Longer than the server's own patience with the teacher, which ends in the student's answer.
    key = os.environ.get("LEADER_API_KEY")
    with (
        progress.task("Waiting for the answer"),
        LeaderClient(url or service_url(config), timeout=config.teacher_timeout_s + 30, key=key) as client,
    ):
        answer = client.recommend(request)
    show(context, answer.model_dump(mode="json"), *answer_tables(answer))
    remark(answer)


def service_url(config: ServeConfig) -> str:
    """Where an application with these settings answers this machine."""
    host = config.host
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reachable}:{config.port}"


def _read(path: Path) -> dict[str, Any]:
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The patient file {path} cannot be read ({error.strerror}); check --patient.") from None
    except ValueError:
        raise UserError(f"The patient file {path} is not valid JSON.") from None
    if not isinstance(request, dict):
        raise UserError(f"The patient file {path} must hold one JSON object with `patient` and `visits`.")
    return request


def answer_tables(answer: RecommendationAnswer) -> list[Table]:
    """An answer as tables: the medications, and the interactions among them if there are any."""
    medications = Table(title=f"Recommended by the {answer.model} ({answer.model_version})", title_justify="left")
    medications.add_column("code")
    medications.add_column("medication")
    medications.add_column("probability", justify="right")
    for medication in answer.medications:
        medications.add_row(medication.code, medication.name, f"{medication.probability:.3f}")
    if not answer.interactions:
        return [medications]
    interactions = Table(title="Interactions", title_justify="left")
    for heading in ("between", "medications", "severity", "reason", "source"):
        interactions.add_column(heading)
    for alert in answer.interactions:
        first, second = (f"{name} ({code})" for code, name in zip(alert.codes, alert.names, strict=True))
        pair = f"{first}{': ' if alert.substances else ''}{', '.join(alert.substances)} + {second}"
        interactions.add_row(alert.between, pair, alert.severity or "unknown", alert.reason, alert.source)
    return [medications, interactions]


def remark(answer: RecommendationAnswer) -> None:
    """Say what the tables do not: who answered and why, what was unknown or left out, and what the answer is not."""
    log(f"{answer.route.text}{' The answer is degraded.' if answer.degraded else ''}")
    if not answer.medications:
        log(f"No medication reaches the threshold of {answer.threshold:.3f}.")
    if not answer.interactions:
        log("No known interaction.")
    if answer.unknown_codes:
        log(f"Unknown to the model, and ignored: {', '.join(answer.unknown_codes)}.")
    if answer.prompt_truncated:
        log("The patient's history was too long for the teacher; its oldest part was left out.")
    log(answer.notice)

"""Lists and comparisons of runs as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leader_platform.evaluation_tables import HEADLINES, METRICS, PAIRED, difference, interval, readable
from leader_platform.report import Cell, Table
from leader_platform.runs import Comparison, RunSummary

_LISTED = ("student", "teacher", "student_without_teacher")  # of an evaluation that has others alone, all are listed
_COMPARED = (*HEADLINES, "expected_calibration_error")


def list_table(caption: str, runs: Iterable[RunSummary]) -> Table:
    """One row a run and model."""
    rows = [row for run in runs for row in _rows(run)]
    return Table(
        caption, ("run", "recipe", "stages", "finished, UTC", "model", *(METRICS[key].name for key in PAIRED)), rows
    )


def _rows(run: RunSummary) -> list[tuple[Cell, ...]]:
    about = (_name(run.run), run.recipe, ", ".join(run.stages), run.finished_at[:16].replace("T", " "))
    models = [name for name in _LISTED if name in run.metrics] or list(run.metrics)
    if not models:
        return [(*about, None, *(None for _ in PAIRED))]
    return [(*about, readable(name), *(interval(run.metrics[name][key], key) for key in PAIRED)) for name in models]


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The settings that differ, and the main metrics of every model in both runs."""
    names = [_name(run) for run in comparison.runs]
    first, second = names if len(set(names)) == 2 else comparison.runs
    settings = [(key, _text(before), _text(after)) for key, (before, after) in comparison.configuration.items()]
    metrics = [
        (readable(model), METRICS[key].name, *_both(comparison, model, key))
        for model, of_model in comparison.metrics.items()
        for key in _COMPARED
        if any(of_model[key])
    ]
    columns = ("model", "metric", first, second, f"{second} − {first}")
    return [
        Table("Settings that differ", ("setting", first, second), settings),
        Table("Metrics, all samples (* excludes zero)", columns, metrics),
    ]


def _both(comparison: Comparison, model: str, metric: str) -> tuple[Cell, ...]:
    """Both runs' metric and what the second has over the first: paired with its interval, or the bare difference."""
    before, after = comparison.metrics[model][metric]
    cells = interval(before, metric), interval(after, metric)
    if paired := comparison.paired.get(model, {}).get(metric):
        return *cells, difference(paired, metric)
    return *cells, METRICS[metric].kind(after[0] - before[0]) if before and after else None


def _name(run: str) -> str:
    return run.rstrip("/").rsplit("/", 1)[-1]


def _text(value: Any) -> str:
    return "–" if value is None else str(value)

"""What trainings told and took, as blocks of a page: the curves of loss and validation PRAUC, and the cost of models.

`Histories` hold what each training told: `loss`, and perhaps `validation_prauc`, at each `step` or `epoch`, under the
model's name, which follows the fold's and a slash where there are folds (`fold-1/student`). `Costs` hold by model what
was measured of `seconds`, `tokens_per_second`, `samples_per_second`, `peak_memory_gb`, `parameters` and
`seconds_per_sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from leader_platform import report_charts as charts
from leader_platform.evaluation_tables import readable
from leader_platform.report import Block, Cell, Chart, Score, Share, Table, cell_text

History = Sequence[Mapping[str, float]]
Histories = Mapping[str, History]
Costs = Mapping[str, Mapping[str, float | None]]

_TOLD = {"loss": "loss", "validation_prauc": "validation PRAUC"}
_MEASURED: dict[str, tuple[str, Callable[[float], Cell]]] = {
    "seconds": ("training, s", float),
    "tokens_per_second": ("tokens/s", float),
    "samples_per_second": ("samples/s", float),
    "peak_memory_gb": ("peak memory, GB", float),
    "parameters": ("parameters", int),
    "seconds_per_sample": ("answering, ms a sample", lambda seconds: 1000 * seconds),
}
_SHARES = {"parameters": "parameters", "peak_memory_gb": "peak memory", "seconds_per_sample": "time for an answer"}


def training(histories: Histories) -> Iterator[Block]:
    """A chart a model, a line a fold, and a table of where each training ended; nothing without histories."""
    by_model: dict[str, dict[str, History]] = {}
    for name, history in histories.items():
        fold, _, model = name.rpartition("/")
        if history:
            by_model.setdefault(model, {})[readable(fold or model)] = history
    for model, of_folds in by_model.items():
        yield _chart(readable(model), of_folds)
    rows = [
        (readable(model), fold, *_ends(history))
        for model, of_folds in by_model.items()
        for fold, history in of_folds.items()
    ]
    if rows:
        columns = ("model", "training", "", "last", "loss there", "best PRAUC", "at")
        yield Table("Where the trainings ended", columns, rows)


def _chart(model: str, histories: Mapping[str, History]) -> Chart:
    over = _over(next(iter(histories.values())))
    panels = {
        name: {fold: _points(history, over, measure) for fold, history in histories.items()}
        for measure, name in _TOLD.items()
    }
    told = {name: lines for name, lines in panels.items() if any(lines.values())}
    described = f"The {' and '.join(told)} over the {over}, a line a training; the table below has the ends."
    return charts.histories(f"Training of the {model}", described, over, told)


def _over(history: History) -> str:
    return "epoch" if "epoch" in history[0] else "step"


def _points(history: History, over: str, measure: str) -> list[tuple[float, float]]:
    return [(told[over], told[measure]) for told in history if told.get(measure) is not None]


def _ends(history: History) -> tuple[Cell, ...]:
    """The unit of the course, its end, the loss there, the best validation PRAUC and where that was."""
    over = _over(history)
    losses, praucs = (_points(history, over, measure) for measure in _TOLD)
    loss = Score(losses[-1][1]) if losses else None
    at, best = max(praucs, key=lambda point: point[1], default=(None, None))
    return over, history[-1][over], loss, None if best is None else Score(best), at


def cost(costs: Costs) -> Iterator[Block]:
    """What each model took and is, and the student's share of what the teacher takes; nothing without figures."""
    measured = [key for key in _MEASURED if any(model.get(key) is not None for model in costs.values())]
    if not measured:
        return
    if shares := ", ".join(_shares(costs.get("student", {}), costs.get("teacher", {}))):
        yield f"What the student is and takes, of what the teacher is and takes: {shares}."
    rows = [(readable(name), *(_cell(model, key) for key in measured)) for name, model in costs.items()]
    yield Table("Cost of each model", ("model", *(_MEASURED[key][0] for key in measured)), rows)


def _shares(student: Mapping[str, float | None], teacher: Mapping[str, float | None]) -> Iterator[str]:
    for key, name in _SHARES.items():
        ours, theirs = student.get(key), teacher.get(key)
        if ours and theirs:
            yield f"{cell_text(Share(ours / theirs))} of the {name}"


def _cell(model: Mapping[str, float | None], key: str) -> Cell:
    value = model.get(key)
    return None if value is None else _MEASURED[key][1](value)

"""The result of an evaluation (`evaluation/metrics.json`) as tables, for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leader_platform.report import Cell, Difference, Interval, Score, Table

Result = Mapping[str, Any]
Metrics = Sequence[str]  # keys of `METRICS`, in the order of columns
ALL = "all"
VISITS = "visits"
PRESCRIPTIONS = "prescriptions"


@dataclass(frozen=True)
class Metric:
    """How a metric is headed, as what kind of number it is shown, and what it means."""

    name: str
    kind: type[float]
    meaning: str


METRICS = {
    "prauc": Metric("PRAUC", Score, "area under a sample's precision-recall curve, as average precision"),
    "jaccard": Metric("Jaccard", Score, "medications both chosen and prescribed, of those that are either"),
    "f1": Metric("F1", Score, "harmonic mean of a sample's precision and recall"),
    "precision": Metric("precision", Score, "share of a sample's chosen medications that were prescribed"),
    "recall": Metric("recall", Score, "share of a sample's prescribed medications that were chosen"),
    "auroc": Metric("AUROC", Score, "how often a prescribed medication stands above one that was not"),
    "interaction_rate": Metric(
        "interaction rate", Score, "share of all pairs chosen in a visit that the data set's table lists as interacting"
    ),
    "medications_per_visit": Metric("medications per visit", float, "medications chosen in a visit"),
    "expected_calibration_error": Metric(
        "calibration error", Score, "mean gap between probability and frequency, over bins of probability"
    ),
    "rare_recall": Metric(
        "rare recall",
        Score,
        "share of the prescriptions of rare classes, the rarest third in training, that were chosen",
    ),
    "rare_coverage": Metric(
        "rare coverage", Score, "share of the rare classes prescribed that were chosen rightly at least once"
    ),
}
HEADLINES = ("prauc", "jaccard", "f1", "interaction_rate", "medications_per_visit")
PAIRED = ("prauc", "jaccard", "f1")
_FIELDS = {"gender": "sex"}


def readable(name: str) -> str:
    """A model's or a setting's key as words."""
    return name.replace("_", " ")


def group_name(group: str) -> str:
    """A group's key as words: `first_visit`, or `gender=F`."""
    field, equals, value = group.partition("=")
    return f"{_FIELDS.get(field, field)} {value}" if equals else readable(group)


def pair_name(pair: str) -> str:
    """`student-teacher` as words."""
    first, _, second = pair.partition("-")
    return f"{readable(first)} − {readable(second)}"


def interval(values: Sequence[float] | None, metric: str) -> Interval | None:
    """A metric's mean, low and high end as a cell; None where the metric has no meaning."""
    return Interval(*map(METRICS[metric].kind, values)) if values else None


def difference(values: Sequence[float] | None, metric: str) -> Difference | None:
    """As `interval`, of what one model has over another."""
    return Difference(*map(METRICS[metric].kind, values)) if values else None


def kinds_of_groups(result: Result) -> dict[str, list[str]]:
    """The groups of samples by what makes them: of `visits`, then of each field of the profile."""
    kinds: dict[str, list[str]] = {}
    for group in next(iter(result["models"].values()), {}):
        field, equals, _ = group.partition("=")
        kinds.setdefault(_FIELDS.get(field, field) if equals else VISITS, []).append(group)
    return kinds


def summary_tables(result: Result) -> list[Table]:
    """What a terminal shows of a result: all models in each kind of visit, and the paired differences."""
    visits = kinds_of_groups(result)[VISITS]
    return [groups_table("Models, with 95% intervals", result, visits, HEADLINES), paired_table(result)]


def models_table(caption: str, result: Result, metrics: Metrics) -> Table:
    """One row a model, over all samples."""
    rows = [(readable(name), *_cells(groups[ALL], metrics)) for name, groups in result["models"].items()]
    return Table(caption, ("model", *_headings(metrics)), rows)


def groups_table(caption: str, result: Result, groups: Iterable[str], metrics: Metrics) -> Table:
    """One row a group and model; the prescriptions' own figures beside the models'."""
    rows = [
        (group_name(group), readable(name), found["samples"], found["patients"], *_cells(found, metrics))
        for group in groups
        for name, found in with_prescriptions(result, group, metrics).items()
    ]
    return Table(caption, ("group", "model", "samples", "patients", *_headings(metrics)), rows)


def paired_table(result: Result) -> Table:
    """One row a pair of models, over all samples."""
    rows = [(pair_name(pair), *_differences(found)) for pair, found in result["paired"].items()]
    return Table("Paired differences, all samples (* excludes zero)", ("", *_headings(PAIRED)), rows)


def paired_groups_table(result: Result) -> Table:
    """One row a pair of models and group of samples."""
    rows = [
        (pair_name(pair), group_name(group), *_differences(found))
        for pair, groups in result["paired_groups"].items()
        for group, found in groups.items()
    ]
    return Table("Paired differences by group (* excludes zero)", ("", "group", *_headings(PAIRED)), rows)


def with_prescriptions(result: Result, group: str, metrics: Metrics) -> dict[str, Any]:
    """Each model's figures of a group, after those of the prescriptions if any of `metrics` is told of them."""
    models = {name: groups[group] for name, groups in result["models"].items()}
    own = result["prescriptions"][group]
    if not set(own) & set(metrics):
        return models
    size = {key: next(iter(models.values()))[key] for key in ("samples", "patients")}
    return {PRESCRIPTIONS: size | own, **models}


def _cells(found: Mapping[str, Any], metrics: Metrics) -> list[Cell]:
    return [interval(found.get(metric), metric) for metric in metrics]


def _differences(found: Mapping[str, Any]) -> list[Cell]:
    return [difference(found.get(metric), metric) for metric in PAIRED]


def _headings(metrics: Metrics) -> list[str]:
    return [METRICS[metric].name for metric in metrics]

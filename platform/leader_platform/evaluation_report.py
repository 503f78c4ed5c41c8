"""The page of an evaluation: how the models were judged, their figures with intervals, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leader_platform import evaluation_tables as tables
from leader_platform import report_charts as charts
from leader_platform.evaluation_tables import ALL, METRICS, PRESCRIPTIONS, VISITS, Result, readable
from leader_platform.report import GREY, Block, Chart, Folded, Section, Table, html_page
from leader_platform.training_report import Costs, Histories, cost, training

Details = Mapping[str, Any]

_FOOTER = (
    "This page holds counts of patients' records by class and group, down to single patients. Where the data came "
    "under an agreement on its use, such as PhysioNet's for MIMIC, handle the page as the agreement demands of them."
)
_CROSS_VALIDATION = (
    "The patients were cut into {folds} folds. Each fold's patients were judged by models trained on patients of the "
    "other folds, so that every patient is judged once, by models that never saw them."
)
_SPLIT = "The patients of the test split were judged by models trained on patients of the training split."
_HONESTY = (
    "Everything that is fitted (vocabularies, weights, the number of epochs, thresholds) is fitted on training and "
    "validation patients alone. A class that a model cannot name counts as missed wherever it was prescribed."
)
_SAMPLES = {"every": "Every visit is a sample", "last": "Each patient's last visit is a sample"}
_INTERVALS = (
    "In brackets stand 95% intervals, from {bootstrap_replicates:,} bootstrap replicates that draw patients, not "
    "samples: the visits of one patient are alike. Differences are paired: both models are judged on the same draws. "
    "The intervals tell how far other patients would move a figure, not how far another training would."
)
_CALIBRATION = (
    "Probabilities of all samples and classes, in bins of equal width. On the diagonal, what is given 30% is "
    "prescribed 30% of the time; below it the model promises too much."
)
_INTERACTIONS = (
    "The rate is of the pairs chosen in all visits together. Clinicians prescribe interacting pairs knowingly, so read "
    "a model's rate beside that of the prescriptions."
)
_OF_GROUPS = ("prauc", "jaccard", "f1", "interaction_rate", "expected_calibration_error")
_MOST_GROUPS = 8
_MOST_CLASSES = 20
_CLASS_MEASURES = {"average_precision": "Average precision", "precision": "Precision", "recall": "Recall"}


def evaluation_page(result: Result, details: Details, training_curves: Histories, costs: Costs) -> str:
    """The HTML page of an evaluation; a section without anything to show is left out.

    `result` and `details` are `evaluation/metrics.json` and `evaluation/details.json`; `training_curves` and `costs`
    are as `training_report` describes them.
    """
    protocol = result["protocol"]
    contents = {
        "Protocol": _protocol(protocol),
        "Models": _models(result),
        "Differences between models": _differences(result),
        "Precision and recall": _precision_recall(details),
        "Calibration": _calibration(result, details),
        "Groups": _groups(result),
        "Medication classes": _classes(details),
        "Interactions": _interactions(result),
        "Training": training(training_curves),
        "Cost": cost(costs),
    }
    sections = [Section(heading, tuple(blocks)) for heading, blocks in contents.items()]
    lead = (
        f"{protocol['num_samples']:,} samples of {protocol['num_patients']:,} patients, "
        f"{protocol['num_classes']:,} medication classes, labels of the {protocol['label_window']}."
    )
    title = f"Evaluation by {readable(protocol['name'])}"
    return html_page(title, lead, [section for section in sections if section.blocks], _FOOTER)


def _protocol(protocol: Mapping[str, Any]) -> Iterator[Block | Folded]:
    yield _CROSS_VALIDATION.format(**protocol) if protocol["name"] == "cross-validation" else _SPLIT
    yield _HONESTY
    seeds = protocol["seeds"]
    trained = f"Each model was trained once, with seed {seeds[0]}."
    if len(seeds) > 1:
        told = ", ".join(map(str, seeds))
        trained = f"Each model was trained with {len(seeds)} seeds ({told}); its figures are the mean over them."
    yield f"{_SAMPLES[protocol['samples']]}; its labels are those of the {protocol['label_window']}. {trained}"
    yield _INTERVALS.format(**protocol)
    meanings = [(metric.name, metric.meaning) for metric in METRICS.values()]
    yield Folded("What the metrics mean", (Table("Metrics", ("metric", "meaning"), meanings),))
    settings = [(readable(name), str(value)) for name, value in protocol.items()]
    yield Folded("All settings of the protocol", (Table("Protocol", ("setting", "value"), settings),))


def _models(result: Result) -> Iterator[Block]:
    yield tables.models_table("All samples", result, ("prauc", "auroc", "jaccard", "f1"))
    yield tables.models_table("What is chosen", result, ("precision", "recall", "rare_recall", "rare_coverage"))


def _differences(result: Result) -> Iterator[Block | Folded]:
    if not result["paired"]:
        return
    by_group = result["paired_groups"]
    overall = _panels({pair: {ALL: metrics} for pair, metrics in result["paired"].items()}, [ALL])
    by_visit = _panels(by_group, [group for group in tables.kinds_of_groups(result)[VISITS] if group != ALL])
    if overall:
        yield charts.forest("Differences in PRAUC, all samples", "PRAUC", overall)
    yield tables.paired_table(result)
    if by_visit:
        yield charts.forest("Differences in PRAUC by kind of visit", "PRAUC", by_visit)
    yield Folded("Differences in every group", (tables.paired_groups_table(result),))


def _panels(pairs: Mapping[str, Mapping[str, Any]], groups: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By group every pair's difference in PRAUC, None where it has none; without the groups that have none at all."""
    panels = {
        tables.group_name(group): {
            tables.pair_name(pair): tables.difference(found.get(group, {}).get("prauc"), "prauc")
            for pair, found in pairs.items()
        }
        for group in groups
    }
    return {group: differences for group, differences in panels.items() if any(differences.values())}


def _precision_recall(details: Details) -> Iterator[Chart]:
    curves = {
        readable(name): list(zip(told["recall"], told["precision"], strict=True))
        for name, told in _of_models(details, "precision_recall").items()
        if told["recall"]
    }
    if curves:
        # The best precision of the points that reach half of all labels.
        at_half = {name: max(p for r, p in points if r >= 0.5) for name, points in curves.items()}
        told = ", ".join(f"{name} {precision:.2f}" for name, precision in at_half.items())
        described = f"Precision over recall, of all samples and classes together. Precision at a recall of 0.5: {told}."
        yield charts.curves("Precision-recall curves", described, ("recall", "precision"), curves)


def _calibration(result: Result, details: Details) -> Iterator[Block]:
    yield _CALIBRATION
    curves = {
        readable(name): [(told["probability"], told["frequency"]) for told in bins if told["count"]]
        for name, bins in _of_models(details, "reliability").items()
    }
    if curves:
        described = "The labels' frequency over their probability, a panel a model; the table below has the mean gaps."
        yield charts.diagonals("Reliability", described, ("probability", "frequency of the label"), curves)
    yield tables.models_table("Reliability", result, ("expected_calibration_error",))


def _of_models(details: Details, key: str) -> dict[str, Any]:
    return {name: told[key] for name, told in details.get("models", {}).items()}


def _groups(result: Result) -> Iterator[Chart | Folded]:
    for kind, groups in tables.kinds_of_groups(result).items():
        by = "kind of visit" if kind == VISITS else kind
        bars = _bars(result, _shown(result, kind, groups), "prauc")
        yield charts.interval_bars(f"PRAUC by {by}", "PRAUC", bars, _colours(result))
        table = tables.groups_table(f"Metrics by {by}", result, groups, _OF_GROUPS)
        yield Folded(f"More metrics by {by}", (table,))


def _shown(result: Result, kind: str, groups: Sequence[str]) -> Sequence[str]:
    """The groups that a chart has room for: kinds of visits and ages all in their order, of others the largest."""
    if kind in (VISITS, "age"):
        return groups
    return sorted(groups, key=lambda group: -_num_samples(result, group))[:_MOST_GROUPS]


def _num_samples(result: Result, group: str) -> int:
    return next(iter(result["models"].values()))[group]["samples"]


def _colours(result: Result) -> dict[str, str]:
    return {readable(name): colour for name, (colour, _) in charts.styles(result["models"]).items()}


def _bars(result: Result, groups: Iterable[str], metric: str) -> dict[str, dict[str, Any]]:
    """For each group, named with its size, the figure of each model, and of the prescriptions if they have one."""
    return {
        f"{tables.group_name(group)} ({_num_samples(result, group):,})": {
            readable(name): tables.interval(found.get(metric), metric)
            for name, found in tables.with_prescriptions(result, group, [metric]).items()
        }
        for group in groups
    }


def _classes(details: Details) -> Iterator[Table | Folded]:
    models = _of_models(details, "classes")
    if models:
        caption = f"Average precision of the {_MOST_CLASSES} largest classes"
        yield _classes_table(caption, models, "average_precision", _MOST_CLASSES)
        every_class = tuple(_classes_table(name, models, measure) for measure, name in _CLASS_MEASURES.items())
        yield Folded("All classes", every_class)


def _classes_table(
    caption: str, models: Mapping[str, Sequence[Mapping[str, Any]]], measure: str, most: int | None = None
) -> Table:
    """One row a class, the one with the most labels first; one column a model."""
    alike = zip(*models.values(), strict=True)  # all models tell of the same classes in the same order
    rows = [
        (
            f"{told[0]['name']} ({told[0]['class'].removeprefix('ATC:')})",
            told[0]["labels"],
            *(each[measure] for each in told),
        )
        for told in sorted(alike, key=lambda told: -told[0]["labels"])[:most]
    ]
    return Table(caption, ("class", "labels", *map(readable, models)), rows)


def _interactions(result: Result) -> Iterator[Block]:
    yield _INTERACTIONS
    groups = tables.kinds_of_groups(result)[VISITS]
    bars = _bars(result, groups, "interaction_rate")
    yield charts.interval_bars("Interaction rate", "interaction rate", bars, {PRESCRIPTIONS: GREY} | _colours(result))
    yield tables.groups_table("Interaction rate", result, groups, ("interaction_rate", "medications_per_visit"))

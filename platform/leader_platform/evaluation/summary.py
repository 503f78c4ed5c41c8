"""The results of an evaluation as JSON: what `metrics.json` tells of models and groups, and what its page adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import numpy as np

from leader_platform.config import EvaluateConfig
from leader_platform.evaluation.calibration import reliability_curve
from leader_platform.evaluation.cases import Answers, Cases
from leader_platform.evaluation.metrics import Bools, class_results, precision_recall_curve
from leader_platform.evaluation.statistics import Estimate, bootstrap, membership
from leader_platform.evaluation.sums import METRICS, metrics, sample_statistics

Values = dict[str, list[float] | None]  # metric -> value, low and high end; None where the metric has no meaning
LEADERS = ("student", "teacher")  # the models that each other one is compared with
_PRESCRIPTIONS = ""  # among the models; no name of one
_OF_PRESCRIPTIONS = ("interaction_rate", "medications_per_visit")


class Summary(TypedDict):
    """What is told of all models. A pair's key is "student-teacher", its values what the first has over the second."""

    prescriptions: dict[str, Values]  # group -> the labels' own
    models: dict[str, dict[str, dict[str, Any]]]  # model -> group -> samples, patients and values
    paired: dict[str, Values]  # over all samples
    paired_groups: dict[str, dict[str, Values]]


def summarise(
    cases: Cases, answers: Mapping[str, Sequence[Answers]], interacting: Bools, config: EvaluateConfig
) -> Summary:
    """The metrics of each model in each group of `cases`, with 95 % intervals by patient, and paired differences.

    A model has one `Answers` a seed, and its metric is the mean over them. `interacting` is bool [classes, classes].
    """
    prescribed = Answers(cases.labels.astype(np.float32), cases.labels)
    statistics = {
        name: [sample_statistics(cases, each, interacting, config.calibration_bins) for each in of_seeds]
        for name, of_seeds in {_PRESCRIPTIONS: [prescribed], **answers}.items()
    }
    summary = Summary(prescriptions={}, models={name: {} for name in answers}, paired={}, paired_groups={})
    for group, rows in cases.groups.items():
        estimates = _estimates(statistics, cases.patients, rows, config)
        own = _values(estimates.pop(_PRESCRIPTIONS))
        summary["prescriptions"][group] = {name: own[name] for name in _OF_PRESCRIPTIONS}
        size = {"samples": int(rows.sum()), "patients": len(np.unique(cases.patients[rows]))}
        for name, estimate in estimates.items():
            summary["models"][name][group] = size | _values(estimate)
        for name, other in pairs(answers):
            difference = _values(estimates[name] - estimates[other])
            summary["paired_groups"].setdefault(f"{name}-{other}", {})[group] = difference
    summary["paired"] = {pair: groups.pop("all") for pair, groups in summary["paired_groups"].items()}
    return summary


def _estimates(
    statistics: Mapping[str, Sequence[np.ndarray]], patients: np.ndarray, rows: Bools, config: EvaluateConfig
) -> dict[str, Estimate]:
    """Each model's metrics over the samples of a group, of all models from the same draws of the group's patients."""
    by_patient = membership(patients, rows)
    sums = [by_patient @ each for of_seeds in statistics.values() for each in of_seeds]
    of_sums = partial(metrics, num_bins=config.calibration_bins)
    found = iter(bootstrap(sums, of_sums, config.bootstrap_replicates, config.bootstrap_seed))
    return {name: Estimate.mean([next(found) for _ in of_seeds]) for name, of_seeds in statistics.items()}


def _values(estimate: Estimate) -> Values:
    return dict(zip(METRICS, estimate.intervals(), strict=True))


def pairs(models: Iterable[str]) -> list[tuple[str, str]]:
    """The models that are compared: the student with each other one, then the teacher with each but the student."""
    others = list(models)
    found = []
    for leader in LEADERS:
        if leader in others:
            others.remove(leader)
            found += [(leader, other) for other in others]
    return found


def details(
    cases: Cases, answers: Mapping[str, Sequence[Answers]], titles: Mapping[str, str], config: EvaluateConfig
) -> dict[str, Any]:
    """What the page draws beside the summary, under `models` and a model's name; answers of all its seeds are pooled.

    `precision_recall`: at most 100 points over all samples and classes, as lists `recall` and `precision`.
    `reliability`: a row a calibration bin. `classes`: a row a class, its `name` from `titles`; null where a measure has
    no meaning.
    """
    return {"models": {name: _model_details(cases, of_seeds, titles, config) for name, of_seeds in answers.items()}}


def _model_details(
    cases: Cases, of_seeds: Sequence[Answers], titles: Mapping[str, str], config: EvaluateConfig
) -> dict[str, Any]:
    labels = np.concatenate([cases.labels] * len(of_seeds))
    scores = np.concatenate([each.scores for each in of_seeds])
    chosen = np.concatenate([each.chosen for each in of_seeds])
    recall, precision = precision_recall_curve(labels, scores)
    probability, frequency, counts = reliability_curve(labels, scores, config.calibration_bins)
    return {
        "precision_recall": {"recall": recall.tolist(), "precision": precision.tolist()},
        "reliability": _rows(probability=probability, frequency=frequency, count=counts),
        "classes": [
            {"class": code, "name": titles.get(code, code), "labels": int(num_labels)} | measures
            for code, num_labels, measures in zip(
                cases.classes, cases.labels.sum(axis=0), _rows(**class_results(labels, scores, chosen)), strict=True
            )
        ],
    }


def _rows(**columns: np.ndarray) -> list[dict[str, Any]]:
    """Columns of the same length as rows, None where a number is not one."""
    plain = ([None if np.isnan(value) else value.item() for value in column] for column in columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]

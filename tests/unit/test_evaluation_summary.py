"""The results of an evaluation, from a few hand-written patients up."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from support.answers import Judged, judged

from leader_platform.config import EvaluateConfig
from leader_platform.evaluation import calibration, metrics, sums
from leader_platform.evaluation.cases import Answers, Cases, in_columns
from leader_platform.evaluation.summary import details, pairs, summarise

CONFIG = EvaluateConfig(bootstrap_replicates=50)
CLASSES = ("ATC:A", "ATC:B", "ATC:C", "ATC:D")
NOTHING = np.zeros((4, 4), dtype=bool)


def bools(*rows: str) -> np.ndarray:
    return np.array([[mark == "y" for mark in row] for row in rows])


# Three patients, the first with two visits.
CASES = Cases(
    sample_ids=["1-1", "1-2", "2-1", "3-1"],
    subjects=np.array(["1", "1", "2", "3"]),
    classes=CLASSES,
    labels=bools("yy..", "y...", "..yy", ".y.y"),
    groups={
        "all": np.array([True, True, True, True]),
        "first_visit": np.array([True, False, True, True]),
        "multi_visit": np.array([False, True, False, False]),
    },
    rare=np.array([False, False, False, True]),
)


def answers(chosen: np.ndarray) -> Answers:
    """A model that is as sure as can be: probability 0.9 for what it chooses, else 0.1."""
    return Answers(np.where(chosen, 0.9, 0.1).astype(np.float32), chosen)


STUDENT = answers(bools("yy..", "y...", "..yy", ".yy."))
POPULARITY = answers(bools("yy..", "yy..", "yy..", "yy.."))


def first(values: dict) -> dict:
    """The value of each metric, without its interval."""
    return {name: value[0] if isinstance(value, list) else value for name, value in values.items()}


def test_a_group_has_its_counts_and_the_means_of_its_samples() -> None:
    interacting = NOTHING.copy()
    interacting[0, 1] = interacting[1, 0] = True
    summary = summarise(CASES, {"popularity": [POPULARITY]}, interacting, CONFIG)
    assert first(summary["models"]["popularity"]["all"]) == {
        "samples": 4,
        "patients": 3,
        "prauc": pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 2) / 4),  # of a tie of two medications, then of all four
        "jaccard": pytest.approx((1 + 1 / 2 + 0 + 1 / 3) / 4),
        "f1": pytest.approx((1 + 2 / 3 + 0 + 1 / 2) / 4, abs=1e-6),
        "precision": pytest.approx((1 + 1 / 2 + 0 + 1 / 2) / 4),
        "recall": pytest.approx((1 + 1 + 0 + 1 / 2) / 4),
        "auroc": pytest.approx((1 + 5 / 6 + 0 + 1 / 2) / 4, abs=1e-6),
        "interaction_rate": 1,
        "medications_per_visit": 2,
        "expected_calibration_error": pytest.approx((8 * (0.9 - 4 / 8) + 8 * (3 / 8 - 0.1)) / 16, abs=1e-6),
        "rare_recall": 0,
        "rare_coverage": 0,
    }
    multi_visit = summary["models"]["popularity"]["multi_visit"]
    assert (multi_visit["samples"], multi_visit["patients"]) == (1, 1)
    assert multi_visit["jaccard"] == [0.5, 0.5, 0.5]
    assert multi_visit["rare_recall"] is None


def test_the_prescriptions_stand_beside_the_models() -> None:
    interacting = NOTHING.copy()
    interacting[2, 3] = interacting[3, 2] = True
    prescriptions = summarise(CASES, {"student": [STUDENT]}, interacting, CONFIG)["prescriptions"]
    assert first(prescriptions["all"]) == {
        "interaction_rate": pytest.approx(1 / 3, abs=1e-6),
        "medications_per_visit": pytest.approx(7 / 4),
    }
    assert prescriptions["multi_visit"] == {"interaction_rate": None, "medications_per_visit": [1, 1, 1]}


def test_rare_classes_are_told_by_their_labels_and_by_the_class() -> None:
    twice = answers(bools("yy.y", "y...", "..yy", ".yy."))  # the rare class is chosen wrongly, then rightly
    student = first(summarise(CASES, {"student": [twice]}, NOTHING, CONFIG)["models"]["student"]["all"])
    assert student["rare_recall"] == 0.5  # one of its two labels
    assert student["rare_coverage"] == 1  # the class was found once


def test_the_paired_difference_of_identical_models_is_exactly_zero() -> None:
    draw = np.random.default_rng(0)
    labels, scores = draw.random((60, 9)) < 0.3, draw.random((60, 9), dtype=np.float32)
    groups = {"all": np.ones(60, bool), "first_visit": draw.random(60) < 0.5}
    subjects = draw.integers(25, size=60).astype(str)
    cases = Cases([""] * 60, subjects, tuple("abcdefghi"), labels, groups, draw.random(9) < 0.3)
    same = Answers(scores, scores >= 0.5)
    interacting = np.ones((9, 9), bool)
    summary = summarise(cases, {"student": [same], "other": [same, same], "teacher": [same]}, interacting, CONFIG)
    for found in (
        *summary["paired"].values(),
        *(groups["first_visit"] for groups in summary["paired_groups"].values()),
    ):
        assert set(found) == set(sums.METRICS)
        assert all(interval == [0, 0, 0] for interval in found.values())


def test_a_paired_difference_is_what_the_first_has_over_the_second() -> None:
    given_models = {"popularity": [POPULARITY], "student": [STUDENT]}
    summary = summarise(CASES, given_models, NOTHING, CONFIG)
    difference = summary["paired"]["student-popularity"]["jaccard"]
    assert difference is not None
    value, low, high = difference
    assert value == pytest.approx((0 + 1 / 2 + 1 + 0) / 4, abs=1e-6)
    assert low <= value <= high
    assert list(summary["paired"]) == ["student-popularity"]
    assert set(summary["paired_groups"]["student-popularity"]) == {"first_visit", "multi_visit"}


def test_a_model_with_several_seeds_has_the_mean_of_its_metrics() -> None:
    summary = summarise(CASES, {"student": [STUDENT, POPULARITY]}, NOTHING, CONFIG)
    alone = [summarise(CASES, {"student": [one]}, NOTHING, CONFIG) for one in (STUDENT, POPULARITY)]
    both = [first(each["models"]["student"]["all"]) for each in alone]
    expected = {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}
    # Calibration error and coverage too: pooled answers would cancel one seed's error by another's.
    assert first(summary["models"]["student"]["all"]) == pytest.approx(expected, abs=1e-6)


def test_a_class_that_training_never_saw_counts_as_missed() -> None:
    known = CLASSES[:3]  # a perfect model of these
    scores = in_columns(CASES.labels[:, :3].astype(np.float32), known, CLASSES)
    perfect = Answers(scores, scores >= 0.05)
    found = first(summarise(CASES, {"student": [perfect]}, NOTHING, CONFIG)["models"]["student"]["all"])
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 2) / 4)
    assert found["prauc"] < 1
    assert found["rare_recall"] == 0


@given(judged())
def test_sums_over_samples_give_the_means_of_the_metrics(case: Judged) -> None:
    labels, scores, chosen, interacting = case
    everyone = {"all": np.ones(len(labels), bool)}
    subjects = np.arange(len(labels)).astype(str)
    cases = Cases(list(subjects), subjects, tuple(map(str, range(labels.shape[1]))), labels, everyone, labels[0])
    found = sums.metrics(sums.sample_statistics(cases, Answers(scores, chosen), interacting, 15).sum(axis=0), 15)
    of_samples = {
        "prauc": metrics.average_precision(labels, scores),
        "jaccard": metrics.jaccard(labels, chosen),
        "f1": metrics.f1(labels, chosen),
        "precision": metrics.precision(labels, chosen),
        "recall": metrics.recall(labels, chosen),
        "auroc": metrics.auroc(labels, scores),
    }
    expected = {name: values[~np.isnan(values)].mean() if not np.isnan(values).all() else np.nan
                for name, values in of_samples.items()}  # fmt: skip
    rate = metrics.interaction_rate(chosen, interacting)
    expected["interaction_rate"] = np.nan if rate is None else rate
    expected["expected_calibration_error"] = calibration.expected_calibration_error(labels, scores, 15)
    told = dict(zip(sums.METRICS, found.tolist(), strict=True))
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_the_student_is_compared_with_all_and_the_teacher_with_all_but_the_student() -> None:
    assert pairs(["popularity", "student", "teacher"]) == [
        ("student", "popularity"),
        ("student", "teacher"),
        ("teacher", "popularity"),
    ]
    assert pairs(["popularity", "logistic_regression"]) == []


@pytest.mark.filterwarnings("error")
def test_results_are_json_even_where_nothing_is_labelled_or_chosen() -> None:
    empty = answers(np.zeros((4, 4), dtype=bool))
    cases = Cases(CASES.sample_ids, CASES.subjects, CLASSES, empty.chosen, CASES.groups, CASES.rare)
    summary = summarise(cases, {"student": [empty], "teacher": [empty]}, NOTHING, CONFIG)
    told = details(cases, {"student": [empty]}, {}, CONFIG)
    json.dumps([summary, told], allow_nan=False)
    assert summary["models"]["student"]["all"]["prauc"] is None
    assert summary["paired"]["student-teacher"]["precision"] is None


def test_details_hold_a_curve_the_bins_and_a_row_for_each_class() -> None:
    found = details(CASES, {"student": [STUDENT]}, {"ATC:A": "Alpha"}, CONFIG)["models"]["student"]
    assert found["precision_recall"] == {
        "recall": [pytest.approx(6 / 7), 1],
        "precision": [pytest.approx(6 / 7), 7 / 16],
    }
    bins = {index: row for index, row in enumerate(found["reliability"]) if row["count"]}
    assert bins == {
        1: {"probability": pytest.approx(0.1), "frequency": pytest.approx(1 / 9), "count": 9},
        13: {"probability": pytest.approx(0.9), "frequency": pytest.approx(6 / 7), "count": 7},
    }
    assert len(found["reliability"]) == CONFIG.calibration_bins
    assert found["classes"][0] == {
        "class": "ATC:A",
        "name": "Alpha",
        "labels": 2,
        "average_precision": 1,
        "precision": 1,
        "recall": 1,
    }
    assert found["classes"][3] == {
        "class": "ATC:D",
        "name": "ATC:D",
        "labels": 2,
        "average_precision": pytest.approx(1 / 2 + 1 / 4),
        "precision": 1,
        "recall": 0.5,
    }


def test_details_of_several_seeds_pool_their_answers_and_not_the_labels() -> None:
    found = details(CASES, {"student": [STUDENT, POPULARITY]}, {}, CONFIG)["models"]["student"]
    assert [row["labels"] for row in found["classes"]] == [2, 2, 1, 2]
    assert found["classes"][3]["recall"] == 1 / 4
    assert sum(row["count"] for row in found["reliability"]) == 2 * 16

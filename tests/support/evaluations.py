"""Random evaluations, as `leader evaluate` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leader_platform.config import EvaluateConfig
from leader_platform.evaluation.cases import Answers, Cases, rarest_third
from leader_platform.evaluation.summary import details, summarise

MODELS = (
    "popularity",
    "previous_visit",
    "logistic_regression",
    "hidden_state_ridge",
    "student_without_teacher",
    "student",
    "teacher",
)
GROUPS = (
    "all",
    "first_visit",
    "multi_visit",
    "unseen_diagnoses",
    "gender=F",
    "gender=M",
    "age=50-59",
    "age=60-69",
    *(f"race=RACE {number}" for number in range(10)),
    "race=<b>other & more",
    "insurance=Medicare",
)
CONFIG = EvaluateConfig(bootstrap_replicates=20)
PROTOCOL: dict[str, Any] = {
    "name": "cross-validation",
    "folds": 5,
    "fold_seed": 0,
    "seeds": [0],
    "samples": "every",
    "label_window": "whole stay",
    "threshold_metric": "jaccard",
    "bootstrap_replicates": 20,
    "num_samples": 90,
    "num_patients": 40,
    "num_classes": 140,
    "interaction_source": ["table"],
    "data": "0123456789abcdef",
}


def evaluation(
    models: Sequence[str] = MODELS, groups: Sequence[str] = GROUPS, num_samples: int = 90, num_classes: int = 140
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What would lie in `metrics.json` and in `details.json`."""
    draw = np.random.default_rng(0)
    labels = draw.random((num_samples, num_classes)) < np.linspace(0.5, 0.01, num_classes)
    members = {group: draw.random(num_samples) < 0.5 for group in groups} | {"all": np.ones(num_samples, bool)}
    classes = tuple(f"ATC:{number:04d}" for number in range(num_classes))
    cases = Cases(
        [str(number) for number in range(num_samples)],
        draw.integers(40, size=num_samples),
        classes,
        labels,
        members,
        rarest_third(labels.sum(axis=0)),
    )
    answers = {}
    for name in models:
        scores = np.clip(draw.normal(0.2 + 0.3 * labels, 0.2), 0, 1).astype(np.float32)
        answers[name] = [Answers(scores, scores >= 0.4)]
    interacting = np.triu(draw.random((num_classes, num_classes)) < 0.05, 1)
    titles = {code: f"<i>Class</i> {code} & others" for code in classes}
    summary = summarise(cases, answers, interacting | interacting.T, CONFIG)
    result = {"protocol": PROTOCOL, **summary, "thresholds": {name: [0.4] for name in models}, "costs": {}}
    return result, details(cases, answers, titles, CONFIG)

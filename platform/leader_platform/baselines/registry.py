"""Baselines by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from leader_platform.baselines.base import Baseline
from leader_platform.baselines.hidden_state_ridge import HiddenStateRidge
from leader_platform.baselines.logistic_regression import LogisticRegression
from leader_platform.baselines.popularity import Popularity
from leader_platform.baselines.previous_visit import PreviousVisit
from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError
from leader_platform.predict import Knowledge

Factory = Callable[[Knowledge, LeaderConfig], Baseline]

BASELINES: dict[str, Factory] = {
    "popularity": lambda knowledge, config: Popularity(knowledge),
    "previous_visit": lambda knowledge, config: PreviousVisit(knowledge),
    "logistic_regression": lambda knowledge, config: LogisticRegression(knowledge),
    "logistic_regression_from_previous_visit": lambda knowledge, config: LogisticRegression(
        knowledge, start=PreviousVisit(knowledge), categories=True
    ),
    "hidden_state_ridge": lambda knowledge, config: HiddenStateRidge(
        knowledge, config.prompt, config.teacher, config.features.dtype
    ),
}


def load(name: str) -> Factory:
    """What makes a baseline that is not fitted yet: one of `BASELINES`, or the class `package.module:Class`, whose
    constructor takes `Knowledge`. `UserError` for a name that is neither."""
    if name in BASELINES:
        return BASELINES[name]
    module, separator, class_name = name.partition(":")
    if not separator:
        raise UserError(
            f"There is no baseline {name!r}; choose of {', '.join(BASELINES)}, or give package.module:Class."
        )
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"The baseline {name!r} cannot be imported ({error}); its package must be on PYTHONPATH."
        ) from error
    return lambda knowledge, config: found(knowledge)

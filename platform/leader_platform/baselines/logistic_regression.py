"""Logistic regression of each medication on codes and profile, all medications fitted at once.

One-vs-rest models share their inputs, so one sparse product serves all of them: 400,000 samples of 10,000 columns and
130 medications take eight minutes on one core, for all penalties together (measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from leader_platform.baselines.base import Baseline, Examples, mean_prauc
from leader_platform.baselines.popularity import Popularity
from leader_platform.data.code_parents import parents
from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord
from leader_platform.data.vocabulary import profile_value
from leader_platform.evaluation.metrics import Bools
from leader_platform.features import probabilities
from leader_platform.predict import Knowledge

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# C, the inverse of the penalty, strong penalties first: each fit begins where the stronger one ended.
INVERSE_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

# Values of the columns. A smaller value is a larger penalty; these were the best of those tried (docs/EVALUATION.md).
_PAST = {"diagnoses": 0.5, "procedures": 0.5, "medications": 1.0}
_PROFILE = 0.5
_MIDDLE_AGE, _AGE_UNIT = 60, 40

_MAX_ITERATIONS = 200
_TOLERANCE = 1e-5  # of the loss, relative; PRAUC moves in the fourth decimal from here on


class LogisticRegression:
    """Log-odds = those of `start` + a linear function of `features`, with an L2 penalty on all its weights.

    `start` is a baseline too. Popularity (the default) makes this plain logistic regression, whose intercepts are drawn
    towards the classes' log-odds instead of 0: a class that training samples never or always have needs no care then.
    PreviousVisit tells what a penalty alike for all columns cannot: that of all past medications a class's own one says
    most. C is the one of `INVERSE_PENALTIES` with the best validation PRAUC.
    """

    def __init__(self, knowledge: Knowledge, start: Baseline | None = None, categories: bool = False) -> None:
        from sklearn.feature_extraction import DictVectorizer

        self.start = start or Popularity(knowledge)
        self.categories = categories
        self.columns = DictVectorizer(dtype=np.float32)

    def fit(self, train: Examples, validation: Examples) -> Self:
        self.start.fit(train, validation)
        inputs = self.columns.fit_transform(features(record, self.categories) for record in train.records)
        offsets = log_odds(self.start.predict_proba(train.records))
        held_out, held_out_offsets = self._read(validation.records)
        weights, best = np.zeros((inputs.shape[1], train.labels.shape[1]), np.float32), -1.0
        for inverse_penalty in INVERSE_PENALTIES:
            weights = fit_weights(inputs, train.labels, offsets, inverse_penalty, weights)
            prauc = mean_prauc(validation.labels, held_out @ weights + held_out_offsets)
            if prauc > best:
                self.weights, self.inverse_penalty, best = weights, inverse_penalty, prauc
        return self

    def predict_proba(self, records: Sequence[PatientRecord]) -> np.ndarray:
        inputs, offsets = self._read(records)
        return probabilities(inputs @ self.weights + offsets)

    def _read(self, records: Sequence[PatientRecord]) -> tuple[csr_matrix, np.ndarray]:
        """Inputs [records, columns] and the log-odds to begin from [records, medications]."""
        inputs = self.columns.transform(features(record, self.categories) for record in records)
        return inputs, log_odds(self.start.predict_proba(records))


def features(record: PatientRecord, categories: bool = False) -> dict[str, float]:
    """Column -> value: the current visit's codes, the share of earlier visits that had each code, and the profile.

    Codes of now and of the past are columns of their own. `categories` adds those that the current codes stand in.
    """
    found = {"intercept": 1.0}
    for field in PROFILE_FIELDS:
        value = record.profile.get(field)
        if value is not None and field == "age":
            found["age"] = (value - _MIDDLE_AGE) / _AGE_UNIT
        elif value is not None:
            found[f"{field} {profile_value(field, value)}"] = _PROFILE
    for code in (*record.current.diagnoses, *record.current.procedures):
        for name in (code, *parents(code)) if categories else (code,):
            found[f"now {name}"] = 1.0
    for visit in record.history:
        for kind in KINDS:
            for code in set(getattr(visit, kind)):
                name = f"past {code}"
                found[name] = found.get(name, 0.0) + _PAST[kind] / len(record.history)
    return found


def log_odds(shares: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of probabilities that are neither 0 nor 1."""
    return np.log(shares) - np.log1p(-shares)


def fit_weights(
    inputs: csr_matrix, labels: Bools, offsets: np.ndarray, inverse_penalty: float, weights: np.ndarray
) -> np.ndarray:
    """The weights float32 [columns, medications] that minimise the sum of all log losses + |weights|^2 / (2 C), by
    L-BFGS from `weights`; `inputs` [samples, columns], `labels` and `offsets` [samples, medications].

    L-BFGS works on weights in units of the loss's curvature at the start, which a frequent column bends ten thousand
    times as much as a rare one: it needs a third of the steps so.
    """
    from scipy.optimize import minimize

    num_samples = len(labels)
    share = labels.mean(axis=0)
    curvature = np.asarray(inputs.power(2).sum(axis=0)).reshape(-1, 1) * (share * (1 - share)) + 1 / inverse_penalty
    units = (curvature**-0.5).astype(np.float32)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        current = flat.reshape(units.shape).astype(np.float32) * units
        logits = inputs @ current + offsets
        loss = np.logaddexp(0, logits).sum(dtype=float) - logits[labels].sum(dtype=float)
        loss += np.square(current, dtype=float).sum() / (2 * inverse_penalty)
        gradient = (inputs.T @ (probabilities(logits) - labels) + current / inverse_penalty) * units
        return loss / num_samples, gradient.ravel().astype(float) / num_samples

    options = {"maxiter": _MAX_ITERATIONS, "maxcor": 5, "ftol": _TOLERANCE, "gtol": 0.0}
    found = minimize(loss_and_gradient, (weights / units).ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(units.shape).astype(np.float32) * units

"""The routing policy: who answers a request, and why. Pure functions; `router` carries them out.

In `auto` the student is always asked first, since its answer takes milliseconds. The teacher is asked as well where it
knows more: on a first visit, and where the student is unsure. So an answer is at hand whatever becomes of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leader_serve.problems import ServingError
from leader_serve.schemas import ModelChoice, ModelName, RouteReason

REASON_TEXTS: Mapping[RouteReason, str] = {
    RouteReason.REQUESTED: "The request named this model.",
    RouteReason.POLICY: "The deployment's policy names this model.",
    RouteReason.SHADOW: "The student answered; the teacher may be asked in the background, for comparison.",
    RouteReason.FIRST_VISIT: "No earlier visit is known, so the teacher answered.",
    RouteReason.LOW_CONFIDENCE: "The student was unsure, so the teacher answered.",
    RouteReason.HISTORY_KNOWN: "Earlier visits are known and the student was sure enough, so it answered.",
    RouteReason.TEACHER_UNAVAILABLE: "The teacher was wanted, but is not there or fails, so the student answered.",
    RouteReason.TEACHER_FAILED: "The teacher failed, so the student answered.",
    RouteReason.TEACHER_TIMEOUT: "The teacher took too long, so the student answered.",
    RouteReason.TEACHER_OVERLOADED: "The teacher has too many requests waiting, so the student answered.",
    RouteReason.DEADLINE: "The teacher would not have answered before the deadline, so the student answered.",
}


@dataclass(frozen=True)
class Route:
    """Which model answers, why, and whether it stands in for another."""

    model: ModelName
    reason: RouteReason
    degraded: bool = False


@dataclass(frozen=True)
class Situation:
    """What the policy knows of a request when the student has answered it."""

    is_first_visit: bool
    confidence: float
    teacher_answers: bool  # one is deployed, and did not fail again and again just now
    teacher_is_full: bool = False
    remaining_s: float | None = None  # until the request's deadline; None without one
    teacher_takes_s: float | None = None  # what the teacher takes now; None where nothing is known


def needs_student(choice: ModelChoice) -> bool:
    """Whether the student is asked at all."""
    return choice != ModelChoice.TEACHER


def decide(choice: ModelChoice, named: bool, situation: Situation, min_confidence: float) -> Route:
    """The route of a request that the student has answered; `named` tells whether the request chose by itself."""
    if choice == ModelChoice.STUDENT:
        return Route("student", RouteReason.REQUESTED if named else RouteReason.POLICY)
    if choice == ModelChoice.SHADOW:
        return Route("student", RouteReason.SHADOW)
    assert choice == ModelChoice.AUTO, choice
    if situation.is_first_visit:
        wanted = RouteReason.FIRST_VISIT
    elif situation.confidence < min_confidence:
        wanted = RouteReason.LOW_CONFIDENCE
    else:
        return Route("student", RouteReason.HISTORY_KNOWN)
    if not situation.teacher_answers:
        return Route("student", RouteReason.TEACHER_UNAVAILABLE, degraded=True)
    if situation.teacher_is_full:
        return Route("student", RouteReason.TEACHER_OVERLOADED, degraded=True)
    remaining, takes = situation.remaining_s, situation.teacher_takes_s
    if remaining is not None and remaining < (takes or 0.0):
        return Route("student", RouteReason.DEADLINE, degraded=True)
    return Route("teacher", wanted)


def decide_without_student(named: bool, teacher_deployed: bool) -> Route:
    """The route of a request for the teacher. Raises `ServingError` (503) where none is deployed."""
    if not teacher_deployed:
        message = "No teacher is deployed; ask for the model `auto` or `student` instead."
        raise ServingError(503, "teacher-unavailable", message)
    return Route("teacher", RouteReason.REQUESTED if named else RouteReason.POLICY)


def confidence(probabilities: np.ndarray, threshold: float) -> float:
    """How well an answer may be expected to agree with the prescriptions, from probabilities [medications]: the Jaccard
    index of its expected overlap and union. 1 where nothing is likely and nothing recommended."""
    chosen = probabilities >= threshold
    union = chosen.sum() + probabilities[~chosen].sum()
    return float(probabilities[chosen].sum() / union) if union > 0 else 1.0


def agreement(ours: set[str], theirs: set[str]) -> float:
    """The Jaccard index of two recommendations; 1 where both are empty."""
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0


class Breaker:
    """Whether a model is worth asking: not for a while after several failures in a row, then by one request at a time
    (a circuit breaker). So a model that hangs costs a few requests their patience, and not all."""

    def __init__(self, failures: int = 3, rest_s: float = 10.0) -> None:
        self._limit, self._rest_s = failures, rest_s
        self._failures = 0
        self._tried_at = 0.0

    def allows(self, now: float) -> bool:
        """Whether a request may ask now."""
        return self._failures < self._limit or now - self._tried_at >= self._rest_s

    def tries(self, now: float) -> None:
        """A request asks."""
        self._tried_at = now

    def succeeded(self) -> None:
        """It was answered."""
        self._failures = 0

    def failed(self) -> None:
        """It was not."""
        self._failures += 1


class ExpectedLatency:
    """How long a model takes now: a moving mean and two mean deviations above it (after Jacobson 1988, for TCP).

    What was seen is forgotten after a while, so that a model that was slow once is tried again.
    """

    _GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 2.0

    def __init__(self, forgotten_after_s: float = 60.0) -> None:
        self._forgotten_after_s = forgotten_after_s
        self._mean: float | None = None
        self._deviation = 0.0
        self._seen_at = 0.0

    def gave_up(self, seconds: float, now: float) -> None:
        """No answer came within so long: as far as is known it takes twice that, as TCP backs off."""
        self._mean = max(2 * seconds, self.expected(now) or 0.0)
        self._deviation, self._seen_at = 0.0, now

    def saw(self, seconds: float, now: float) -> None:
        """An answer took so long."""
        if self._mean is None or now - self._seen_at > self._forgotten_after_s:
            self._mean, self._deviation = seconds, seconds / 2
        else:
            error = seconds - self._mean
            self._mean += self._GAIN * error
            self._deviation += self._DEVIATION_GAIN * (abs(error) - self._deviation)
        self._seen_at = now

    def expected(self, now: float) -> float | None:
        """Seconds, or None where nothing was seen lately."""
        if self._mean is None or now - self._seen_at > self._forgotten_after_s:
            return None
        return self._mean + self._DEVIATIONS * self._deviation

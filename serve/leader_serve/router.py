"""Who answers: the teacher for first visits, where it is better and the student knows little, else the student.

The router runs inside the ingress replica. As a deployment of its own it would add a hop, and one hop was measured to
cost more than the student's whole forward pass (two cores: 2,720 requests/s without a hop, 337 with one).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from leader_serve.prediction import Model, ModelCard, Prediction, Query, log_failure
from leader_serve.schemas import ModelChoice, ModelName, RouteReason

STUDENT_TIMEOUT_S = 10.0
_DESCRIBE_TIMEOUT_S = 2.0

REASON_TEXTS: Mapping[RouteReason, str] = {
    RouteReason.REQUESTED: "The request named this model.",
    RouteReason.FIRST_VISIT: "No earlier visit is known, so the teacher answered.",
    RouteReason.HISTORY_KNOWN: "Earlier visits are known, so the student answered.",
    RouteReason.TEACHER_UNAVAILABLE: "No earlier visit is known, but no teacher is deployed, so the student answered.",
    RouteReason.TEACHER_FAILED: "The teacher failed, so the student answered.",
    RouteReason.TEACHER_TIMEOUT: "The teacher took too long, so the student answered.",
    RouteReason.TEACHER_OVERLOADED: "The teacher has too many requests waiting, so the student answered.",
}


class ServingError(RuntimeError):
    """A request that cannot be answered now, through no fault of its own."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class ModelOverloadedError(RuntimeError):
    """A model's queue is full."""


@dataclass(frozen=True)
class Route:
    model: ModelName
    reason: RouteReason
    degraded: bool = False


@dataclass(frozen=True)
class Ask:
    """A query and the model that its caller wants."""

    requested: ModelChoice
    query: Query


@dataclass(frozen=True)
class Routed:
    """A prediction and the way it took."""

    route: Route
    prediction: Prediction


def decide(requested: ModelChoice, is_first_visit: bool, teacher_available: bool) -> Route:
    """The policy. Raises `ServingError` (503) where the teacher is asked for by name and none is deployed."""
    if requested == ModelChoice.STUDENT:
        return Route("student", RouteReason.REQUESTED)
    if requested == ModelChoice.TEACHER:
        if not teacher_available:
            raise ServingError(
                503, "teacher-unavailable", "No teacher is deployed; ask for the model `auto` or `student` instead."
            )
        return Route("teacher", RouteReason.REQUESTED)
    if not is_first_visit:
        return Route("student", RouteReason.HISTORY_KNOWN)
    if teacher_available:
        return Route("teacher", RouteReason.FIRST_VISIT)
    return Route("student", RouteReason.TEACHER_UNAVAILABLE, degraded=True)


class Router:
    """Carries out the policy: calls the models with a time limit and falls back where the caller left the choice."""

    def __init__(
        self,
        student: Model,
        teacher: Model | None,
        teacher_timeout_s: float,
        student_timeout_s: float = STUDENT_TIMEOUT_S,
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._teacher_timeout_s = teacher_timeout_s
        self._student_timeout_s = student_timeout_s

    async def recommend(self, ask: Ask) -> Routed:
        """Raises `ServingError`."""
        (outcome,) = await self.recommend_all([ask])
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    async def recommend_all(self, asks: Sequence[Ask]) -> list[Routed | ServingError]:
        """An outcome for each, in order. What goes to the student goes in one call; the teacher gets one call a query,
        so that each has its own time limit and a slow one degrades itself alone."""
        routes = dict(enumerate(self._decide(ask) for ask in asks))
        to_student = _routes_to("student", routes)
        to_teacher = _routes_to("teacher", routes)
        from_student, from_teacher = await asyncio.gather(
            self._ask_student(asks, to_student),
            asyncio.gather(*(self._ask_teacher(asks[i], route) for i, route in to_teacher.items())),
        )
        outcomes: dict[int, Route | Routed | ServingError] = {
            **routes,
            **from_student,
            **dict(zip(to_teacher, from_teacher, strict=True)),
        }
        fallen_back = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, Route)}
        answered = {i: outcome for i, outcome in outcomes.items() if not isinstance(outcome, Route)}
        answered |= await self._ask_student(asks, fallen_back)
        return [answered[i] for i in range(len(asks))]

    async def describe(self, name: ModelName) -> ModelCard | None:
        """A model's card, or None where it is not deployed or does not answer."""
        model = self._student if name == "student" else self._teacher
        if model is None:
            return None
        try:
            async with asyncio.timeout(_DESCRIBE_TIMEOUT_S):
                return await model.describe()
        except TimeoutError:
            return None  # it starts, or is busy
        except Exception as error:  # whatever another process raised: it does not answer, and the log says why
            log_failure(name, error)
            return None

    def _decide(self, ask: Ask) -> Route | ServingError:
        try:
            return decide(ask.requested, ask.query.record.is_first_visit, self._teacher is not None)
        except ServingError as error:
            return error

    async def _ask_student(self, asks: Sequence[Ask], routes: Mapping[int, Route]) -> dict[int, Routed | ServingError]:
        if not routes:
            return {}
        try:
            async with asyncio.timeout(self._student_timeout_s):
                predictions = await self._student.predict([asks[i].query for i in routes])
        except Exception as error:
            failure = _serving_error("student", error)
            return dict.fromkeys(routes, failure)
        return {i: Routed(routes[i], prediction) for i, prediction in zip(routes, predictions, strict=True)}

    async def _ask_teacher(self, ask: Ask, route: Route) -> Routed | Route | ServingError:
        """A prediction; else, in `auto`, the student's degraded route; else the error."""
        assert self._teacher is not None
        try:
            async with asyncio.timeout(self._teacher_timeout_s):
                (prediction,) = await self._teacher.predict([ask.query])
        except Exception as error:
            if ask.requested == ModelChoice.TEACHER:
                return _serving_error("teacher", error)
            return replace(route, model="student", reason=_fallback_reason(error), degraded=True)
        return Routed(route, prediction)


def _routes_to(model: ModelName, routes: Mapping[int, Route | ServingError]) -> dict[int, Route]:
    return {i: route for i, route in routes.items() if isinstance(route, Route) and route.model == model}


def _fallback_reason(error: Exception) -> RouteReason:
    if isinstance(error, TimeoutError):
        return RouteReason.TEACHER_TIMEOUT
    if isinstance(error, ModelOverloadedError):
        return RouteReason.TEACHER_OVERLOADED
    log_failure("teacher", error)
    return RouteReason.TEACHER_FAILED


def _serving_error(model: ModelName, error: Exception) -> ServingError:
    if isinstance(error, TimeoutError):
        return ServingError(504, f"{model}-timeout", f"The {model} did not answer in time; try again later.", 5)
    if isinstance(error, ModelOverloadedError):
        return ServingError(503, "overloaded", f"The {model} has too many requests waiting; try again later.", 1)
    log_failure(model, error)
    return ServingError(503, f"{model}-failed", f"The {model} could not answer; try again later.", 5)

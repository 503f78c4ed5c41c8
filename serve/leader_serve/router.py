"""Carries out the policy of `routing`: asks the models, each with its time limit, and falls back where it may.

The router runs inside the ingress replica. As a deployment of its own it would add a hop, and one hop was measured to
cost more than the student's whole forward pass (two cores: 2,720 requests/s without a hop, 337 with one).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leader_platform.config import ServeConfig
from leader_serve.observer import Observer
from leader_serve.prediction import Model, ModelCard, Prediction, Query, log_failure
from leader_serve.problems import ServingError
from leader_serve.routing import (
    Breaker,
    ExpectedLatency,
    Route,
    Situation,
    agreement,
    decide,
    decide_without_student,
    needs_student,
)
from leader_serve.schemas import ModelChoice, ModelName, RouteReason

STUDENT_TIMEOUT_S = 10.0
_DESCRIBE_TIMEOUT_S = 2.0
_PATIENCE, _LEAST_PATIENCE_S = 4.0, 1.0  # times what the teacher is expected to take, which is a high figure itself
_WAITING_FOR_A_STRANGER = 4
_SHADOWS_AT_A_TIME = 4  # of an ingress replica; more would take the teacher from those who wait for it


class ModelOverloadedError(RuntimeError):
    """A model's queue is full."""


@dataclass(frozen=True)
class Ask:
    """A query, the model that its caller names (None: the deployment's policy), and how long an answer is of use."""

    requested: ModelChoice | None
    query: Query
    deadline_s: float | None = None


@dataclass(frozen=True)
class Routed:
    """A prediction and the way it took."""

    route: Route
    prediction: Prediction


Outcome = Routed | ServingError


class Router:
    """Answers queries by the policy. `teacher` is None where none is deployed; `clock` tells seconds."""

    def __init__(
        self,
        student: Model,
        teacher: Model | None,
        config: ServeConfig,
        observer: Observer | None = None,
        student_timeout_s: float = STUDENT_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._student, self._teacher, self._config = student, teacher, config
        self._observer = observer or Observer()
        self._student_timeout_s = student_timeout_s
        self._clock, self._draw = clock, draw
        self._teacher_latency = ExpectedLatency()
        self._teacher_breaker = Breaker()
        self._teacher_waiting = 0
        self._teacher_has_answered = False
        self._shadows: set[asyncio.Task[None]] = set()

    async def recommend(self, ask: Ask) -> Routed:
        """Raises `ServingError`."""
        (outcome,) = await self.recommend_all([ask])
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    async def recommend_all(self, asks: Sequence[Ask]) -> list[Outcome]:
        """An outcome for each, in order. The student gets one call for all; the teacher one for each query, so that
        each has its own time limit and a slow one degrades itself alone."""
        began = self._clock()
        for_student = [i for i, ask in enumerate(asks) if needs_student(self._choice(ask))]
        answers = dict(zip(for_student, await self._ask_student([asks[i] for i in for_student]), strict=True))
        return await asyncio.gather(*(self._finish(ask, answers.get(i), began) for i, ask in enumerate(asks)))

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

    def _choice(self, ask: Ask) -> ModelChoice:
        return ask.requested or ModelChoice(self._config.policy)

    async def _finish(self, ask: Ask, answer: Prediction | ServingError | None, began: float) -> Outcome:
        """From the student's answer, if it was asked, to the outcome."""
        if isinstance(answer, ServingError):
            return answer
        choice, named = self._choice(ask), ask.requested is not None
        if answer is None:
            try:
                route = decide_without_student(named, self._teacher is not None)
            except ServingError as error:
                return error
            outcome = await self._ask_teacher(ask, route, began, self._config.teacher_timeout_s)
            return outcome if isinstance(outcome, Routed) else _serving_error("teacher", outcome)
        route = decide(choice, named, self._situation(ask, answer, began), self._config.min_confidence)
        if choice == ModelChoice.SHADOW:
            self._compare(ask.query, answer)
        if route.model == "student":
            return Routed(route, answer)
        outcome = await self._ask_teacher(ask, route, began, self._patience_s())
        if isinstance(outcome, Routed):
            return outcome
        return Routed(Route("student", _fallback_reason(outcome), degraded=True), answer)

    def _situation(self, ask: Ask, answer: Prediction, began: float) -> Situation:
        now = self._clock()
        return Situation(
            is_first_visit=ask.query.record.is_first_visit,
            confidence=answer.confidence,
            teacher_answers=self._teacher is not None and self._teacher_breaker.allows(now),
            teacher_is_full=self._teacher_waiting >= self._most_waiting(),
            remaining_s=None if ask.deadline_s is None else ask.deadline_s - (now - began),
            teacher_takes_s=self._teacher_latency.expected(now),
        )

    async def _ask_student(self, asks: Sequence[Ask]) -> Sequence[Prediction | ServingError]:
        if not asks:
            return []
        began = self._clock()
        try:
            async with asyncio.timeout(self._student_timeout_s):
                predictions = await self._student.predict([ask.query for ask in asks])
        except Exception as error:
            return [_serving_error("student", error)] * len(asks)
        self._observer.model_answered("student", self._clock() - began)
        return predictions

    def _most_waiting(self) -> int:
        """How many requests may wait for the teacher: few until it has answered one, since it may be starting still."""
        limit = self._config.max_teacher_waiting
        return limit if self._teacher_has_answered else min(limit, _WAITING_FOR_A_STRANGER)

    def _patience_s(self) -> float:
        """How long a request waits that has the student's answer already: by what the teacher takes now, so that one
        that hangs, or starts anew, is left within seconds."""
        expected = self._teacher_latency.expected(self._clock())
        limit = self._config.teacher_timeout_s
        return limit if expected is None else min(limit, max(_LEAST_PATIENCE_S, _PATIENCE * expected))

    async def _ask_teacher(self, ask: Ask, route: Route, began: float, limit_s: float) -> Routed | Exception:
        """The teacher's prediction, or why there is none."""
        hasty = False
        if ask.deadline_s is not None:
            remaining = ask.deadline_s - (self._clock() - began)
            limit_s, hasty = min(limit_s, remaining), remaining < limit_s
        try:
            return Routed(route, await self._timed_teacher(ask.query, limit_s, hasty))
        except Exception as error:  # of any kind: another process raised it
            return error

    async def _timed_teacher(self, query: Query, limit_s: float, hasty: bool = False) -> Prediction:
        """Ask the teacher, and learn from how long it takes, or from having given up on it. `hasty`: the limit is the
        caller's, and says nothing against the teacher."""
        assert self._teacher is not None
        if self._teacher_waiting >= self._most_waiting():
            raise ModelOverloadedError
        began = self._clock()
        self._teacher_breaker.tries(began)
        self._wait_for_teacher(+1)
        try:
            async with asyncio.timeout(limit_s):
                (prediction,) = await self._teacher.predict([query])
        except TimeoutError:
            self._teacher_latency.gave_up(self._clock() - began, self._clock())
            if not hasty:
                self._teacher_breaker.failed()
            raise
        except ModelOverloadedError:
            raise
        except Exception:  # of any kind: another process raised it; it is counted here and told by the caller
            self._teacher_breaker.failed()
            raise
        finally:
            self._wait_for_teacher(-1)
        self._teacher_has_answered = True
        self._teacher_breaker.succeeded()
        self._teacher_latency.saw(self._clock() - began, self._clock())
        self._observer.model_answered("teacher", self._clock() - began)
        return prediction

    def _wait_for_teacher(self, change: int) -> None:
        self._teacher_waiting += change
        self._observer.teacher_waits(change)

    def _compare(self, query: Query, answer: Prediction) -> None:
        """Ask the teacher too, now and then and in the background, and note how far the two agree."""
        if self._teacher is None or len(self._shadows) >= _SHADOWS_AT_A_TIME:
            return
        if self._draw() >= self._config.shadow_share:
            return
        task = asyncio.create_task(self._shadow(query, answer))
        self._shadows.add(task)  # or the event loop might forget it
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, query: Query, answer: Prediction) -> None:
        try:
            teacher = await self._timed_teacher(query, self._config.teacher_timeout_s)
        except Exception as error:  # nobody waits for it
            log_failure("shadow", error)
            return
        ours, theirs = ({code for code, _ in prediction.medications} for prediction in (answer, teacher))
        self._observer.shadow_agreed(agreement(ours, theirs))


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

"""How the policy is carried out: who is asked, and what becomes of it when a model does not play along."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from leader_platform.config import ServeConfig
from leader_platform.data.records import PatientRecord, Visit
from leader_serve.observer import Observer
from leader_serve.prediction import Model, ModelCard, Prediction, Query
from leader_serve.problems import ServingError
from leader_serve.router import Ask, ModelOverloadedError, Routed, Router
from leader_serve.routing import Route
from leader_serve.schemas import ModelChoice, ModelName, RouteReason

AUTO, STUDENT, TEACHER, SHADOW = ModelChoice.AUTO, ModelChoice.STUDENT, ModelChoice.TEACHER, ModelChoice.SHADOW
FIRST = Query(PatientRecord())
KNOWN = Query(PatientRecord(history=(Visit(),)))


class Scripted:
    """A model that answers after a while, or fails, and counts the calls."""

    def __init__(
        self,
        version: str,
        error: Exception | None = None,
        takes: float = 0,
        confidence: float = 0.9,
        codes: str = "",
    ) -> None:
        self.version, self.confidence = version, confidence
        self.medications = tuple((code, 0.9) for code in codes)
        self.error = error
        self.takes = takes
        self.calls: list[int] = []

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        self.calls.append(len(queries))
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return [Prediction(self.version, 0.5, self.medications, {}, (), self.confidence) for _ in queries]

    async def describe(self) -> ModelCard:
        if self.error is not None:
            raise self.error
        return ModelCard(self.version, 0.5, 1)


class Seen(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.models: list[ModelName] = []
        self.waiting = [0]
        self.agreements: list[float] = []

    def model_answered(self, model: ModelName, seconds: float) -> None:
        self.models.append(model)

    def teacher_waits(self, change: int) -> None:
        self.waiting.append(self.waiting[-1] + change)

    def shadow_agreed(self, agreement: float) -> None:
        self.agreements.append(agreement)


def route(student: Model, teacher: Model | None, observer: Observer | None = None, **settings: Any) -> Router:
    return Router(student, teacher, ServeConfig(**settings), observer, student_timeout_s=0.05, draw=lambda: 0.05)


@pytest.mark.parametrize(
    ("teacher", "reason", "status", "code"),
    [
        (Scripted("t", RuntimeError("quotes ICD10CM:I10")), RouteReason.TEACHER_FAILED, 503, "teacher-failed"),
        (Scripted("t", takes=60), RouteReason.TEACHER_TIMEOUT, 504, "teacher-timeout"),
        (Scripted("t", ModelOverloadedError()), RouteReason.TEACHER_OVERLOADED, 503, "overloaded"),
    ],
)
def test_a_broken_teacher_degrades_auto_and_fails_an_explicit_request(
    teacher: Scripted, reason: RouteReason, status: int, code: str
) -> None:
    router = route(Scripted("s"), teacher, teacher_timeout_s=0.05)
    routed = asyncio.run(router.recommend(Ask(AUTO, FIRST)))
    assert routed.route == Route("student", reason, degraded=True)
    assert routed.prediction.version == "s"
    with pytest.raises(ServingError) as caught:
        asyncio.run(router.recommend(Ask(TEACHER, FIRST)))
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.retry_after_s
    assert "ICD10CM" not in str(caught.value)


def test_a_batch_keeps_its_order_and_asks_the_student_once() -> None:
    student, teacher = Scripted("s"), Scripted("t")
    router = route(student, teacher)
    asks = [Ask(AUTO, KNOWN), Ask(AUTO, FIRST), Ask(STUDENT, FIRST), Ask(TEACHER, KNOWN)]
    outcomes = asyncio.run(router.recommend_all(asks))
    assert [outcome.prediction.version for outcome in outcomes if isinstance(outcome, Routed)] == ["s", "t", "s", "t"]
    assert (student.calls, teacher.calls) == ([3], [1, 1])


def test_a_batch_without_a_teacher_fails_only_what_insists_on_it() -> None:
    outcomes = asyncio.run(route(Scripted("s"), None).recommend_all([Ask(TEACHER, FIRST), Ask(AUTO, FIRST)]))
    assert isinstance(outcomes[0], ServingError)
    assert isinstance(outcomes[1], Routed)
    assert outcomes[1].route.degraded


@pytest.mark.parametrize(
    ("student", "status"),
    [
        (Scripted("s", RuntimeError()), 503),
        (Scripted("s", ModelOverloadedError()), 503),
        (Scripted("s", takes=60), 504),
    ],
)
def test_a_broken_student_is_an_error_that_says_to_come_again(student: Scripted, status: int) -> None:
    router = route(student, None)
    with pytest.raises(ServingError) as caught:
        asyncio.run(router.recommend(Ask(AUTO, KNOWN)))
    assert caught.value.status == status
    assert caught.value.retry_after_s


def test_a_model_that_is_absent_or_broken_has_no_card() -> None:
    router = route(Scripted("s"), Scripted("t", RuntimeError()))
    assert asyncio.run(router.describe("student")) == ModelCard("s", 0.5, 1)
    assert asyncio.run(router.describe("teacher")) is None
    assert asyncio.run(route(Scripted("s"), None).describe("teacher")) is None


def test_the_student_is_asked_first_and_its_answer_stands_in() -> None:
    """So a teacher that fails costs no more than its time limit."""
    student, seen = Scripted("s", confidence=0.1), Seen()
    router = route(student, Scripted("t", takes=60), seen, teacher_timeout_s=0.05)
    routed = asyncio.run(router.recommend(Ask(AUTO, KNOWN)))
    assert (routed.route.reason, routed.prediction.version) == (RouteReason.TEACHER_TIMEOUT, "s")
    assert student.calls == [1]
    assert seen.models == ["student"]
    assert seen.waiting == [0, 1, 0]


def test_a_request_that_names_no_model_follows_the_deployment() -> None:
    student, teacher = Scripted("s"), Scripted("t")
    by_policy = {
        policy: asyncio.run(route(student, teacher, policy=policy).recommend(Ask(None, FIRST))).route
        for policy in ("auto", "student", "teacher", "shadow")
    }
    assert by_policy == {
        "auto": Route("teacher", RouteReason.FIRST_VISIT),
        "student": Route("student", RouteReason.POLICY),
        "teacher": Route("teacher", RouteReason.POLICY),
        "shadow": Route("student", RouteReason.SHADOW),
    }


def test_a_deadline_cuts_the_teachers_time_and_is_learnt_from() -> None:
    student, teacher = Scripted("s"), Scripted("t", takes=60)
    router = route(student, teacher, teacher_timeout_s=30)

    async def twice() -> list[Route]:
        ask = Ask(AUTO, FIRST, deadline_s=0.1)
        return [(await router.recommend(ask)).route for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first == Route("student", RouteReason.TEACHER_TIMEOUT, degraded=True)
    assert second == Route("student", RouteReason.DEADLINE, degraded=True)
    assert teacher.calls == [1]
    with pytest.raises(ServingError) as caught:
        asyncio.run(router.recommend(Ask(TEACHER, FIRST, deadline_s=0.1)))
    assert caught.value.status == 504


def test_a_teacher_that_begins_to_hang_is_left_soon_and_then_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leader_serve.router._LEAST_PATIENCE_S", 0.02)
    teacher = Scripted("t", takes=0.001)
    router = route(Scripted("s"), teacher, teacher_timeout_s=30)

    async def answered_then_hanging() -> list[Route]:
        for _ in range(10):
            assert (await router.recommend(Ask(AUTO, FIRST))).route.model == "teacher"
        teacher.takes = 60
        at_once = await asyncio.gather(*(router.recommend(Ask(AUTO, FIRST)) for _ in range(3)))
        return [routed.route for routed in (*at_once, await router.recommend(Ask(AUTO, FIRST)))]

    async def with_limit() -> list[Route]:
        async with asyncio.timeout(5):
            return await answered_then_hanging()

    *waited, after = asyncio.run(with_limit())
    assert waited == [Route("student", RouteReason.TEACHER_TIMEOUT, degraded=True)] * 3
    assert after.model == "student"
    assert len(teacher.calls) == 13, "a breaker that is open asks nobody"


@pytest.mark.parametrize(("share", "agreements"), [(0.1, [1 / 3]), (0.01, [])])
def test_a_shadow_compares_a_share_in_the_background(share: float, agreements: list[float]) -> None:
    seen, teacher = Seen(), Scripted("t", codes="BC", takes=0.02)
    router = route(Scripted("s", codes="AB"), teacher, seen, policy="shadow", shadow_share=share)

    async def ask() -> Routed:
        routed = await router.recommend(Ask(None, KNOWN))
        assert seen.agreements == [], "the answer waited for the teacher"
        await asyncio.sleep(0.1)
        return routed

    assert asyncio.run(ask()).prediction.version == "s"
    assert seen.agreements == pytest.approx(agreements)


def test_a_shadow_that_fails_is_nobodys_concern() -> None:
    seen = Seen()
    router = route(Scripted("s"), Scripted("t", RuntimeError()), seen, policy="shadow", shadow_share=1)

    async def ask() -> Routed:
        routed = await router.recommend(Ask(SHADOW, KNOWN))
        await asyncio.sleep(0.01)
        return routed

    assert asyncio.run(ask()).route == Route("student", RouteReason.SHADOW)
    assert seen.agreements == []


def test_a_teacher_that_fails_is_left_alone_after_a_few_and_tried_again() -> None:
    now = [0.0]
    teacher = Scripted("t", RuntimeError())
    router = Router(Scripted("s"), teacher, ServeConfig(), clock=lambda: now[0])

    async def reasons(number: int) -> list[RouteReason]:
        return [(await router.recommend(Ask(AUTO, FIRST))).route.reason for _ in range(number)]

    failed, rests = RouteReason.TEACHER_FAILED, RouteReason.TEACHER_UNAVAILABLE
    assert asyncio.run(reasons(5)) == [failed] * 3 + [rests] * 2
    now[0] = 10
    assert asyncio.run(reasons(2)) == [failed, rests]
    now[0], teacher.error = 20, None
    assert asyncio.run(reasons(2)) == [RouteReason.FIRST_VISIT] * 2


def test_no_more_than_a_few_wait_for_the_teacher() -> None:
    """So a teacher that hangs does not hold what the student could answer."""
    teacher = Scripted("t", takes=0.05)
    router = route(Scripted("s"), teacher, max_teacher_waiting=2)
    outcomes = asyncio.run(router.recommend_all([Ask(AUTO, FIRST)] * 4 + [Ask(TEACHER, FIRST)]))
    reasons = [outcome.route.reason for outcome in outcomes if isinstance(outcome, Routed)]
    assert reasons == [RouteReason.FIRST_VISIT] * 2 + [RouteReason.TEACHER_OVERLOADED] * 2
    assert isinstance(outcomes[4], ServingError)
    assert (outcomes[4].status, outcomes[4].code) == (503, "overloaded")
    assert len(teacher.calls) == 2

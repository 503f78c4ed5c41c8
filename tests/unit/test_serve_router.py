"""The routing policy, and how it is carried out when the teacher does not play along."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from leader_platform.data.records import PatientRecord, Visit
from leader_serve.prediction import ModelCard, Prediction, Query
from leader_serve.router import REASON_TEXTS, Ask, ModelOverloadedError, Route, Routed, Router, ServingError, decide
from leader_serve.schemas import ModelChoice, RouteReason

AUTO, STUDENT, TEACHER = ModelChoice.AUTO, ModelChoice.STUDENT, ModelChoice.TEACHER
FIRST = Query(PatientRecord())
KNOWN = Query(PatientRecord(history=(Visit(),)))


class Scripted:
    """A model that answers, fails, or hangs, and counts the calls."""

    def __init__(self, version: str, error: Exception | None = None, hangs: bool = False) -> None:
        self.version = version
        self.error = error
        self.hangs = hangs
        self.calls: list[int] = []

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        self.calls.append(len(queries))
        if self.hangs:
            await asyncio.sleep(60)
        if self.error is not None:
            raise self.error
        return [Prediction(self.version, 0.5, (), {}, ()) for _ in queries]

    async def describe(self) -> ModelCard:
        if self.error is not None:
            raise self.error
        return ModelCard(self.version, 0.5, 1)


@pytest.mark.parametrize(
    ("requested", "first", "teacher", "expected"),
    [
        (AUTO, True, True, Route("teacher", RouteReason.FIRST_VISIT)),
        (AUTO, True, False, Route("student", RouteReason.TEACHER_UNAVAILABLE, degraded=True)),
        (AUTO, False, True, Route("student", RouteReason.HISTORY_KNOWN)),
        (AUTO, False, False, Route("student", RouteReason.HISTORY_KNOWN)),
        (STUDENT, True, True, Route("student", RouteReason.REQUESTED)),
        (TEACHER, False, True, Route("teacher", RouteReason.REQUESTED)),
    ],
)
def test_policy(requested: ModelChoice, first: bool, teacher: bool, expected: Route) -> None:
    assert decide(requested, first, teacher) == expected


def test_an_explicit_teacher_that_is_not_deployed_is_an_error() -> None:
    with pytest.raises(ServingError, match="No teacher is deployed") as caught:
        decide(TEACHER, True, False)
    assert caught.value.status == 503


def test_every_reason_has_its_sentence() -> None:
    assert set(REASON_TEXTS) == set(RouteReason)


@pytest.mark.parametrize(
    ("teacher", "reason", "status", "code"),
    [
        (Scripted("t", RuntimeError("quotes ICD10CM:I10")), RouteReason.TEACHER_FAILED, 503, "teacher-failed"),
        (Scripted("t", hangs=True), RouteReason.TEACHER_TIMEOUT, 504, "teacher-timeout"),
        (Scripted("t", ModelOverloadedError()), RouteReason.TEACHER_OVERLOADED, 503, "overloaded"),
    ],
)
def test_a_broken_teacher_degrades_auto_and_fails_an_explicit_request(
    teacher: Scripted, reason: RouteReason, status: int, code: str
) -> None:
    router = Router(Scripted("s"), teacher, teacher_timeout_s=0.05)
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
    router = Router(student, teacher, teacher_timeout_s=1)
    asks = [Ask(AUTO, KNOWN), Ask(AUTO, FIRST), Ask(STUDENT, FIRST), Ask(TEACHER, KNOWN)]
    outcomes = asyncio.run(router.recommend_all(asks))
    assert [outcome.prediction.version for outcome in outcomes if isinstance(outcome, Routed)] == ["s", "t", "s", "t"]
    assert (student.calls, teacher.calls) == ([2], [1, 1])


def test_a_batch_without_a_teacher_fails_only_what_insists_on_it() -> None:
    outcomes = asyncio.run(Router(Scripted("s"), None, 1).recommend_all([Ask(TEACHER, FIRST), Ask(AUTO, FIRST)]))
    assert isinstance(outcomes[0], ServingError)
    assert isinstance(outcomes[1], Routed)
    assert outcomes[1].route.degraded


@pytest.mark.parametrize(
    ("student", "status"),
    [
        (Scripted("s", RuntimeError()), 503),
        (Scripted("s", ModelOverloadedError()), 503),
        (Scripted("s", hangs=True), 504),
    ],
)
def test_a_broken_student_is_an_error_that_says_to_come_again(student: Scripted, status: int) -> None:
    router = Router(student, None, 1, student_timeout_s=0.05)
    with pytest.raises(ServingError) as caught:
        asyncio.run(router.recommend(Ask(AUTO, KNOWN)))
    assert caught.value.status == status
    assert caught.value.retry_after_s


def test_a_model_that_is_absent_or_broken_has_no_card() -> None:
    router = Router(Scripted("s"), Scripted("t", RuntimeError()), 1)
    assert asyncio.run(router.describe("student")) == ModelCard("s", 0.5, 1)
    assert asyncio.run(router.describe("teacher")) is None
    assert asyncio.run(Router(Scripted("s"), None, 1).describe("teacher")) is None

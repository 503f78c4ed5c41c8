"""The routing policy, case by case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_serve.problems import ServingError
from leader_serve.routing import (
    REASON_TEXTS,
    Breaker,
    ExpectedLatency,
    Route,
    Situation,
    agreement,
    confidence,
    decide,
    decide_without_student,
)
from leader_serve.schemas import ModelChoice, RouteReason

AUTO, STUDENT, SHADOW = ModelChoice.AUTO, ModelChoice.STUDENT, ModelChoice.SHADOW


def test_a_breaker_opens_after_failures_and_lets_one_try_again() -> None:
    breaker = Breaker(failures=2, rest_s=10)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows(0)
    breaker.tries(1)
    breaker.failed()
    assert not breaker.allows(10.9)
    assert breaker.allows(11)
    breaker.tries(11)
    assert not breaker.allows(12), "more than one tries again"
    breaker.succeeded()
    assert breaker.allows(12)


def situation(
    first: bool = False, sure: float = 0.9, teacher: bool = True, full: bool = False, **times: float
) -> Situation:
    return Situation(first, sure, teacher, full, times.get("remaining"), times.get("takes"))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (situation(), Route("student", RouteReason.HISTORY_KNOWN)),
        (situation(teacher=False), Route("student", RouteReason.HISTORY_KNOWN)),
        (situation(first=True), Route("teacher", RouteReason.FIRST_VISIT)),
        (situation(sure=0.39), Route("teacher", RouteReason.LOW_CONFIDENCE)),
        (situation(sure=0.4), Route("student", RouteReason.HISTORY_KNOWN)),
        (situation(first=True, teacher=False), Route("student", RouteReason.TEACHER_UNAVAILABLE, True)),
        (situation(sure=0.1, teacher=False), Route("student", RouteReason.TEACHER_UNAVAILABLE, True)),
        (situation(first=True, full=True), Route("student", RouteReason.TEACHER_OVERLOADED, True)),
        (situation(first=True, remaining=2, takes=3), Route("student", RouteReason.DEADLINE, True)),
        (situation(first=True, remaining=3, takes=2), Route("teacher", RouteReason.FIRST_VISIT)),
        (situation(first=True, remaining=2), Route("teacher", RouteReason.FIRST_VISIT)),  # nothing known: it is tried
        (situation(first=True, remaining=-1), Route("student", RouteReason.DEADLINE, True)),
        (situation(remaining=-1), Route("student", RouteReason.HISTORY_KNOWN)),
    ],
)
def test_auto_asks_the_teacher_where_it_knows_more_and_there_is_time(known: Situation, expected: Route) -> None:
    assert decide(AUTO, named=True, situation=known, min_confidence=0.4) == expected


@pytest.mark.parametrize("known", [situation(), situation(first=True, sure=0.0)])
def test_a_student_or_shadow_is_never_escalated(known: Situation) -> None:
    assert decide(STUDENT, True, known, 0.4) == Route("student", RouteReason.REQUESTED)
    assert decide(STUDENT, False, known, 0.4) == Route("student", RouteReason.POLICY)
    assert decide(SHADOW, False, known, 0.4) == Route("student", RouteReason.SHADOW)


def test_a_teacher_that_is_insisted_on_answers_or_is_an_error() -> None:
    assert decide_without_student(True, teacher_deployed=True) == Route("teacher", RouteReason.REQUESTED)
    assert decide_without_student(False, teacher_deployed=True) == Route("teacher", RouteReason.POLICY)
    with pytest.raises(ServingError, match="No teacher is deployed") as caught:
        decide_without_student(True, teacher_deployed=False)
    assert caught.value.status == 503


def test_every_reason_has_its_sentence() -> None:
    assert set(REASON_TEXTS) == set(RouteReason)


def test_confidence_is_the_expected_jaccard_index() -> None:
    # Two of two chosen, of which 0.9 + 0.5 are expected to be right; 0.2 more are expected beside them.
    assert confidence(np.array([0.9, 0.5, 0.2]), 0.5) == pytest.approx(1.4 / 2.2)
    assert confidence(np.array([1.0, 0.0]), 0.5) == 1
    assert confidence(np.array([0.3, 0.0]), 0.5) == 0
    assert confidence(np.zeros(2), 0.5) == 1  # nothing recommended, and nothing expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_confidence_is_a_share(probabilities: list[float], threshold: float) -> None:
    assert 0 <= confidence(np.array(probabilities, np.float32), threshold) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"), [("ab", "ab", 1), ("ab", "bc", 1 / 3), ("", "", 1), ("", "a", 0)]
)
def test_agreement(ours: str, theirs: str, expected: float) -> None:
    assert agreement(set(ours), set(theirs)) == pytest.approx(expected)


def test_expected_latency_follows_what_was_seen_and_forgets_it() -> None:
    latency = ExpectedLatency(forgotten_after_s=60)
    assert latency.expected(0) is None
    for second in range(100):
        latency.saw(2.0, second)
    assert latency.expected(100) == pytest.approx(2.0, rel=0.01)
    before: Any = latency.expected(100)
    latency.saw(6.0, 100)  # one slow answer raises it, and by more than the mean moves
    assert latency.expected(100) > before + 0.5
    assert latency.expected(160) is not None
    assert latency.expected(161) is None
    latency.saw(1.0, 200)  # what was long ago does not count
    assert latency.expected(200) == pytest.approx(2.0)


def test_giving_up_soon_does_not_make_a_model_fast() -> None:
    latency = ExpectedLatency()
    latency.saw(2.0, 0)
    before = latency.expected(0)
    latency.gave_up(0.01, 1)
    assert latency.expected(1) == before
    latency.gave_up(3.0, 2)
    assert latency.expected(2) == 6.0
    nothing_known = ExpectedLatency()
    nothing_known.gave_up(0.5, 0)
    assert nothing_known.expected(0) == 1.0

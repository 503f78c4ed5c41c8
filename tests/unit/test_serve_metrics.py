"""Ray's metrics take what the application tells: names, tags and numbers fit."""

from __future__ import annotations

from typing import Any

import pytest
import ray.util.metrics

from leader_serve.metrics import RayMetrics
from leader_serve.schemas import InteractionAlert, RecommendationAnswer, RouteAnswer, RouteReason

ALERT = InteractionAlert(
    codes=("ATC:A02B", "ATC:B01A"), names=("a", "b"), between="recommended", severity=None, reason="why", source="s"
)
ANSWER = RecommendationAnswer(
    model="teacher",
    model_version="v",
    route=RouteAnswer(reason=RouteReason.LOW_CONFIDENCE, text=""),
    degraded=False,
    threshold=0.5,
    confidence=0.7,
    medications=[],
    interactions=[ALERT, ALERT],
    unknown_codes=["ICD10CM:S3CRET"],
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What reaches Ray, after its own checks of tags."""
    seen: list[tuple[str, float, dict[str, str]]] = []

    def keep(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        seen.append((self.info["name"], value, self._get_final_tags(tags)))

    for kind, method in (("Counter", "inc"), ("Gauge", "set"), ("Histogram", "observe")):
        monkeypatch.setattr(getattr(ray.util.metrics, kind), method, keep)
    return seen


def test_a_release_tells_its_own_routes_and_no_patients_codes(told: list[tuple[str, float, dict[str, str]]]) -> None:
    metrics = RayMetrics()
    canary = metrics.of("canary")
    metrics.responded(200, 0.002)
    canary.recommended(ANSWER)
    canary.model_answered("teacher", 1.5)
    metrics.student_batch(3)
    metrics.teacher_waits(+1)
    canary.teacher_waits(+1)
    canary.teacher_waits(-1)
    metrics.shadow_agreed(0.4)
    route = {"release": "canary", "model": "teacher"}
    assert told == [
        ("leader_http_responses", 1, {"status": "200"}),
        ("leader_request_seconds", 0.002, {"status": "200"}),
        ("leader_recommendations", 1, {**route, "reason": "low-confidence", "degraded": "no"}),
        ("leader_confidence", 0.7, route),
        ("leader_interaction_alerts", 1, {"severity": "unknown"}),
        ("leader_interaction_alerts", 1, {"severity": "unknown"}),
        ("leader_model_seconds", 1.5, route),
        ("leader_student_batch_size", 3, {}),
        ("leader_teacher_waiting", 1, {"release": "stable"}),
        ("leader_teacher_waiting", 1, {"release": "canary"}),
        ("leader_teacher_waiting", 0, {"release": "canary"}),
        ("leader_shadow_agreement", 0.4, {}),
    ]
    assert "S3CRET" not in str(told)

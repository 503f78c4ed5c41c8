"""The application's metrics, exported by Ray beside its own; Prometheus reads them on every node."""

from __future__ import annotations

import copy

from ray.util.metrics import Counter, Gauge, Histogram

from leader_serve.observer import Observer
from leader_serve.schemas import ModelName, RecommendationAnswer, ReleaseName

# Seconds: from a tenth of what a student takes to a teacher's time limit.
_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]
_SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


class RayMetrics(Observer):
    """Counts in this process; Prometheus sums over processes. What concerns models is told apart by `release`."""

    def __init__(self) -> None:
        self._release: ReleaseName = "stable"
        self._responses = Counter("leader_http_responses", "HTTP answers by status.", ("status",))
        self._request_seconds = Histogram(
            "leader_request_seconds", "Seconds from a request to its answer.", _SECONDS, ("status",)
        )
        self._recommendations = Counter(
            "leader_recommendations",
            "Answered patients by model and route.",
            ("release", "model", "reason", "degraded"),
        )
        self._model_seconds = Histogram(
            "leader_model_seconds", "Seconds that a model took, its queue included.", _SECONDS, ("release", "model")
        )
        self._batch = Histogram("leader_student_batch_size", "Patients in one pass of the student.", _SIZES)
        self._waiting = Gauge("leader_teacher_waiting", "Requests that wait for the teacher.", ("release",))
        self._num_waiting = 0
        self._agreement = Histogram(
            "leader_shadow_agreement", "Jaccard index of the student's and the teacher's medications.", _SHARES
        )
        self._confidence = Histogram(
            "leader_confidence", "Jaccard index that a model expects of its answer.", _SHARES, ("release", "model")
        )
        self._alerts = Counter("leader_interaction_alerts", "Interactions told, by severity.", ("severity",))

    def of(self, release: ReleaseName) -> RayMetrics:
        """The same metrics, for what another release does."""
        other = copy.copy(self)
        other._release = release
        return other

    def responded(self, status: int, seconds: float) -> None:
        tags = {"status": str(status)}
        self._responses.inc(1, tags)
        self._request_seconds.observe(seconds, tags)

    def recommended(self, answer: RecommendationAnswer) -> None:
        degraded = "yes" if answer.degraded else "no"
        model: dict[str, str] = {"release": self._release, "model": answer.model}
        self._recommendations.inc(1, {**model, "reason": answer.route.reason.value, "degraded": degraded})
        self._confidence.observe(answer.confidence, model)
        for alert in answer.interactions:
            self._alerts.inc(1, {"severity": alert.severity or "unknown"})

    def model_answered(self, model: ModelName, seconds: float) -> None:
        self._model_seconds.observe(seconds, {"release": self._release, "model": model})

    def student_batch(self, size: int) -> None:
        self._batch.observe(size)

    def teacher_waits(self, change: int) -> None:
        self._num_waiting += change
        self._waiting.set(self._num_waiting, {"release": self._release})

    def shadow_agreed(self, agreement: float) -> None:
        self._agreement.observe(agreement)

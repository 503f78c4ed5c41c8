"""What happens in the application, told to whoever counts it: nobody here, Ray's metrics in `metrics`."""

from __future__ import annotations

from leader_serve.schemas import ModelName, RecommendationAnswer


class Observer:
    """Told of what happens; does nothing. Numbers, and names that are the application's own, reach a metric, never a
    patient's codes."""

    def responded(self, status: int, seconds: float) -> None:
        """A request was answered with this HTTP status, so long after it came."""

    def recommended(self, answer: RecommendationAnswer) -> None:
        """A patient got this answer."""

    def model_answered(self, model: ModelName, seconds: float) -> None:
        """A model answered what the router asked."""

    def student_batch(self, size: int) -> None:
        """The student answers so many patients in one pass."""

    def teacher_waits(self, change: int) -> None:
        """One more request waits for the teacher (+1), or one less (-1)."""

    def shadow_agreed(self, agreement: float) -> None:
        """Teacher and student recommended sets with this Jaccard index."""

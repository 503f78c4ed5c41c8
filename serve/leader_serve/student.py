"""The student, in the ingress replica or as a Serve deployment: concurrent requests share one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray import serve

from leader_platform.data.records import PatientRecord
from leader_serve.metrics import RayMetrics
from leader_serve.microbatch import MicroBatcher
from leader_serve.observer import Observer
from leader_serve.prediction import ModelCard, Prediction, Query, card, choose, without_patient_content

if TYPE_CHECKING:
    import numpy as np

# A forward pass of 64 patients takes a few milliseconds, and memory for the longest histories stays small.
MAX_BATCH_SIZE = 64


class Student:
    """Answers within milliseconds; many at once for little more than one."""

    def __init__(self, run: str, observer: Observer | None = None) -> None:
        from leader_platform.predict import StudentPredictor

        self._predictor = StudentPredictor.load(run)
        self._observer = observer or RayMetrics()
        self._batcher = MicroBatcher(self._probabilities, MAX_BATCH_SIZE)

    def _probabilities(self, records: list[PatientRecord]) -> list[np.ndarray]:
        self._observer.student_batch(len(records))
        return list(self._predictor.predict(records))

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        """One prediction a query, in order. The queries of all concurrent calls are batched together."""
        with without_patient_content("student"):
            rows = await self._batcher.ask([query.record for query in queries])
            return [choose(self._predictor, query, row) for query, row in zip(queries, rows, strict=True)]

    async def describe(self) -> ModelCard:
        return card(self._predictor)


StudentDeployment = serve.deployment(name="Student")(Student)

"""The teacher as a Serve deployment: a tuned language model with its medication head."""

from __future__ import annotations

from collections.abc import Sequence

from ray import serve

from leader_platform.config import Dtype
from leader_serve.prediction import ModelCard, Prediction, Query, card, choose, without_patient_content


class Teacher:
    """Answers within seconds on a CPU. Not micro-batched here: vLLM lets each new prompt join the running batch."""

    def __init__(self, run: str, engine: str, dtype: Dtype, gpus: float, kv_cache_gb: float) -> None:
        from leader_platform.models.memory import explain_out_of_memory, serving_advice
        from leader_platform.predict import TeacherPredictor

        with explain_out_of_memory("The teacher", *serving_advice(engine, gpus, kv_cache_gb)):
            self._predictor = TeacherPredictor.load(run, engine, dtype, gpus)

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        """One prediction a query, in order."""
        with without_patient_content("teacher"):
            rows, truncated = await self._predictor.predict([query.record for query in queries])
            return [
                choose(self._predictor, query, row, cut)
                for query, row, cut in zip(queries, rows, truncated, strict=True)
            ]

    def __del__(self) -> None:
        # Serve calls this when it stops a replica; the engine's processes would outlive it.
        predictor = getattr(self, "_predictor", None)
        if predictor is not None:
            predictor.shut_down()

    async def describe(self) -> ModelCard:
        return card(self._predictor)


TeacherDeployment = serve.deployment(name="Teacher")(Teacher)

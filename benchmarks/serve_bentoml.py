"""The student under BentoML, for `serve.py`; `python -m bentoml serve serve_bentoml:Single`, with LEADER_RUN."""

# No `from __future__ import annotations`: BentoML reads the annotations of its services' methods as classes.

import bentoml

from leader_serve.schemas import RecommendationAnswer, RecommendationRequest
from leader_serve.student import MAX_BATCH_SIZE
from serve_peers import PATH, Answering


@bentoml.service(workers=1)
class Single:
    """One patient at a time."""

    def __init__(self) -> None:
        self.answering = Answering()

    @bentoml.api(route=PATH)
    def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        return self.answering.answer(request)


@bentoml.service(workers=1)
class Batched:
    """As many together as its own measurements of latency suggest."""

    def __init__(self) -> None:
        self.answering = Answering()

    @bentoml.api(route=PATH, batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=1000)
    def recommend(self, requests: list[RecommendationRequest]) -> list[RecommendationAnswer]:
        return self.answering.answer_all(requests)

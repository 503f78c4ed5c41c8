"""Two releases behind one door."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from leader_serve.canary import Canary
from leader_serve.schemas import (
    BatchItem,
    ModelStatus,
    RecommendationAnswer,
    RecommendationRequest,
    RouteAnswer,
    RouteReason,
)


class Release:
    """Answers with its name."""

    def __init__(self, name: Any, ready: bool = True) -> None:
        self.name, self.ready = name, ready

    async def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        return RecommendationAnswer(
            model="student",
            model_version=self.name,
            route=RouteAnswer(reason=RouteReason.REQUESTED, text=""),
            degraded=False,
            threshold=0.5,
            medications=[],
            interactions=[],
            unknown_codes=[],
        )

    async def recommend_all(self, items: Sequence[Any]) -> list[BatchItem]:
        request = RecommendationRequest.model_validate({"visits": [{}]})
        return [BatchItem(answer=await self.recommend(request)) for _ in items]

    async def models(self) -> list[ModelStatus]:
        return [ModelStatus(model="student", release=self.name, available=self.ready)]

    async def is_ready(self) -> bool:
        return self.ready


def requests(number: int) -> list[RecommendationRequest]:
    return [
        RecommendationRequest.model_validate({"visits": [{"diagnoses": [f"ICD10CM:A{index}"]}]})
        for index in range(number)
    ]


def asked(canary: Canary, some: Sequence[RecommendationRequest]) -> list[str]:
    return [asyncio.run(canary.recommend(request)).model_version for request in some]


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.1, 20, 60), (0.5, 160, 240), (1.0, 400, 400)])
def test_a_share_of_the_requests_goes_to_the_canary(share: float, low: int, high: int) -> None:
    answers = asked(Canary(Release("stable"), Release("canary"), share), requests(400))
    assert low <= answers.count("canary") <= high


def test_a_request_that_is_sent_again_is_answered_by_the_same_models() -> None:
    first, second = (asked(Canary(Release("stable"), Release("canary"), 0.5), requests(50)) for _ in range(2))
    assert first == second


def test_a_batch_stays_together() -> None:
    canary = Canary(Release("stable"), Release("canary"), 0.5)
    batches = [asyncio.run(canary.recommend_all([f"item {index}", {"visits": None}])) for index in range(40)]
    releases = [{item.answer and item.answer.model_version for item in batch} for batch in batches]
    assert all(len(names) == 1 for names in releases)
    assert len(set().union(*releases)) == 2


def test_both_are_told_and_the_stable_one_decides_readiness() -> None:
    canary = Canary(Release("stable"), Release("canary", ready=False), 0.1)
    assert [(model.release, model.available) for model in asyncio.run(canary.models())] == [
        ("stable", True),
        ("canary", False),
    ]
    assert asyncio.run(canary.is_ready())
    assert not asyncio.run(Canary(Release("stable", ready=False), Release("canary"), 0.1).is_ready())

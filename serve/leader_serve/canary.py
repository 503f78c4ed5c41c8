"""Two releases behind one door: a share of the requests goes to the one that is tried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from leader_serve.schemas import BatchItem, ModelStatus, RecommendationAnswer, RecommendationRequest


class Answering(Protocol):
    """What the HTTP endpoints call."""

    async def recommend(self, request: RecommendationRequest) -> RecommendationAnswer: ...

    async def recommend_all(self, items: Sequence[Any]) -> list[BatchItem]: ...

    async def models(self) -> list[ModelStatus]: ...

    async def is_ready(self) -> bool: ...


class Canary:
    """Sends a request to the release that is tried by what it holds, so that a request that is sent again is answered
    by the same models."""

    def __init__(self, stable: Answering, canary: Answering, share: float) -> None:
        self._stable, self._canary, self._share = stable, canary, share

    async def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        return await self._of(request.model_dump_json()).recommend(request)

    async def recommend_all(self, items: Sequence[Any]) -> list[BatchItem]:
        """A batch stays together."""
        return await self._of(json.dumps(items, default=str)).recommend_all(items)

    async def models(self) -> list[ModelStatus]:
        return [*await self._stable.models(), *await self._canary.models()]

    async def is_ready(self) -> bool:
        return await self._stable.is_ready()

    def _of(self, content: str) -> Answering:
        number = int.from_bytes(hashlib.sha256(content.encode("utf-8", "replace")).digest()[:8])
        return self._canary if number < self._share * 2**64 else self._stable

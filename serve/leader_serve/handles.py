"""A deployment behind its handle, as the `Model` that the router calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from leader_serve.prediction import ModelCard, Prediction, Query
from leader_serve.router import ModelOverloadedError


class RemoteModel:
    """Calls a deployment. A caller that gives up (its time limit, a closed connection) cancels the work there too."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        return await _answer(self._handle.predict.remote(list(queries)))

    async def describe(self) -> ModelCard:
        return await _answer(self._handle.describe.remote())


async def _answer(response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]) -> Any:
    assert isinstance(response, DeploymentResponse)
    try:
        return await response
    except BackPressureError as error:
        raise ModelOverloadedError from error
    except asyncio.CancelledError:
        response.cancel()
        raise

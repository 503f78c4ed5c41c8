"""A small typed client of the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from leader_platform.errors import RunError, UserError
from leader_platform.web import http_client
from leader_serve.schemas import (
    BatchAnswer,
    BatchItem,
    ErrorAnswer,
    ModelsAnswer,
    RecommendationAnswer,
    RecommendationRequest,
)

DEFAULT_URL = "http://127.0.0.1:8000"

_Answer = TypeVar("_Answer", RecommendationAnswer, BatchAnswer, ModelsAnswer)


class LeaderClient:
    """Calls a deployed application. Raises `UserError` for a request that it refuses and `RunError` where it fails."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout: float = 60.0,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"The URL {url!r} must begin with http:// or https://, such as {DEFAULT_URL}.")
        self.url = url.rstrip("/")
        self._timeout = timeout
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # A web proxy set for downloads must not be asked for this machine's own ports.
        self._client = http_client(self.url, base_url=self.url, timeout=timeout, headers=headers, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def recommend(self, request: dict[str, Any] | RecommendationRequest) -> RecommendationAnswer:
        return self._parse(RecommendationAnswer, self._request("POST", "/v1/recommendations", _body(request)))

    def recommend_all(self, requests: Sequence[dict[str, Any] | RecommendationRequest]) -> list[BatchItem]:
        """An answer or an error for each request, in order."""
        bodies = [_body(request) for request in requests]
        response = self._request("POST", "/v1/recommendations:batch", {"requests": bodies})
        return self._parse(BatchAnswer, response).items

    def models(self) -> ModelsAnswer:
        return self._parse(ModelsAnswer, self._request("GET", "/v1/models"))

    def is_ready(self) -> bool:
        """Whether the application answers requests now."""
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.ConnectError:
            raise RunError(
                f"Nothing answers at {self.url}; start it with `leader serve deploy`, or name its URL with --url."
            ) from None
        except httpx.TimeoutException:
            raise RunError(f"{self.url} did not answer within {self._timeout:g} seconds.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RunError(f"The call to {self.url} failed ({type(error).__name__}).") from None
        if response.is_error:
            raise _error_of(response, self.url)
        return response

    def _parse(self, kind: type[_Answer], response: httpx.Response) -> _Answer:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise RunError(f"What answers at {self.url} is not LEADER; name its URL with --url.") from None


def _body(request: dict[str, Any] | RecommendationRequest) -> dict[str, Any]:
    return request.model_dump(mode="json") if isinstance(request, RecommendationRequest) else request


def _error_of(response: httpx.Response, url: str) -> UserError | RunError:
    try:
        error = ErrorAnswer.model_validate_json(response.content).error
    except ValidationError:
        # Serve's proxy, or another program altogether, answered for the application.
        return RunError(f"{url} answered {response.status_code}; see `leader serve status`.")
    if response.status_code in (413, 422):
        told = "; ".join(f"{problem.field}: {problem.message}" for problem in error.fields) or error.message
        return UserError(f"The request is not valid: {told}")
    return RunError(error.message)

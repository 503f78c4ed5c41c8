"""The HTTP endpoints, as one FastAPI application around a `Recommender`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from leader_serve.canary import Answering
from leader_serve.guard import RequestGuard, error_response
from leader_serve.keys import KeyRing
from leader_serve.observer import Observer
from leader_serve.problems import InvalidRequestError, ServingError, fields_of
from leader_serve.schemas import (
    NOTICE,
    BatchAnswer,
    BatchRequest,
    ErrorAnswer,
    ErrorDetail,
    HealthAnswer,
    ModelsAnswer,
    RecommendationAnswer,
    RecommendationRequest,
)

_UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorAnswer, "description": "No model can answer now; see the header Retry-After."},
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The body is no text."},
    401: {"model": ErrorAnswer, "description": "No key, or one that is not known."},
    413: {"model": ErrorAnswer, "description": "More than the limits allow."},
    422: {"model": ErrorAnswer, "description": "A field is not as it should be; the error names it."},
    **_UNAVAILABLE,
    504: {"model": ErrorAnswer, "description": "The model did not answer in time."},
}


def build_http(
    recommender: Answering,
    keys: KeyRing | None = None,
    observer: Observer | None = None,
    echo_request_id: bool = True,
) -> FastAPI:
    """The application that the ingress serves and that tests call in memory.

    Without `keys` everybody may call. `echo_request_id` is false under Serve, which adds the header itself; twice would
    reach a caller as `id, id`.
    """
    app = FastAPI(
        title="LEADER medication recommendation",
        description=f"Recommends ATC medication classes for a patient's current visit. {NOTICE}",
        version="1",
        redoc_url=None,
    )
    app.add_middleware(RequestGuard, keys=keys, observer=observer, echo_request_id=echo_request_id)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(InvalidRequestError, _on_invalid_request)
    app.add_exception_handler(ServingError, _on_serving_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_recommendations(app, recommender)
    _add_observation(app, recommender)
    return app


def _add_recommendations(app: FastAPI, recommender: Answering) -> None:
    @app.post("/v1/recommendations", responses=_ERRORS, summary="Recommend medications for one patient")
    async def recommendations(request: RecommendationRequest) -> RecommendationAnswer:
        return await recommender.recommend(request)

    @app.post("/v1/recommendations:batch", responses=_ERRORS, summary="Recommend for several patients")
    async def recommendations_batch(request: BatchRequest) -> BatchAnswer:
        return BatchAnswer(items=await recommender.recommend_all(request.requests))


def _add_observation(app: FastAPI, recommender: Answering) -> None:
    @app.get("/v1/models", summary="Which models answer, and which versions")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(models=await recommender.models())

    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> HealthAnswer:
        return HealthAnswer(status="ok")

    @app.get("/readyz", responses=_UNAVAILABLE, summary="Whether the student answers")
    async def readyz() -> HealthAnswer:
        if not await recommender.is_ready():
            raise ServingError(503, "not-ready", "The student does not answer yet.", 2)
        return HealthAnswer(status="ready")


def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(422, InvalidRequestError(fields_of(error.errors())).detail)


def _on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InvalidRequestError)
    return error_response(error.status, error.detail)


def _on_serving_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServingError)
    return error_response(error.status, ErrorDetail(code=error.code, message=error.message), error.retry_after_s)


def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, ErrorDetail(code="http-error", message=str(error.detail)))
    response.headers.update(error.headers or {})
    return response

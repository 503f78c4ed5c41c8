"""What ingress and models tell each other, and how probabilities become recommendations."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from leader_platform.data.records import PatientRecord
from leader_serve.routing import confidence
from leader_serve.schemas import ModelName

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("ray.serve")
current_request_id: ContextVar[str | None] = ContextVar("leader_request_id", default=None)


@dataclass(frozen=True)
class Query:
    """One patient, how to choose from the probabilities, and which further codes to name in the answer."""

    record: PatientRecord
    threshold: float | None = None
    top_k: int | None = None
    also_named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """A model's answer to a query. Version and threshold travel with it, so that a rolling update cannot mix them.
    `confidence` is as `routing.confidence`, whatever threshold the query has."""

    version: str
    threshold: float
    medications: tuple[tuple[str, float], ...]
    names: Mapping[str, str]
    unknown_codes: tuple[str, ...]
    confidence: float = 1.0
    prompt_truncated: bool | None = None


@dataclass(frozen=True)
class ModelCard:
    version: str
    threshold: float
    num_medications: int


class Model(Protocol):
    """What the router calls: a deployment behind a handle, or an object in memory."""

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]: ...

    async def describe(self) -> ModelCard: ...


class Vocabulary(Protocol):
    """What both predictors tell about themselves."""

    @property
    def medications(self) -> tuple[str, ...]: ...

    @property
    def medication_names(self) -> dict[str, str]: ...

    @property
    def threshold(self) -> float: ...

    @property
    def version(self) -> str: ...

    def unknown_codes(self, record: PatientRecord) -> list[str]: ...


def choose(predictor: Vocabulary, query: Query, probabilities: np.ndarray, truncated: bool | None = None) -> Prediction:
    """Medications of at least the threshold, likeliest first, at most `top_k`; `probabilities` is [num_medications]."""
    threshold = predictor.threshold if query.threshold is None else query.threshold
    order = (-probabilities).argsort(kind="stable")
    chosen = [index for index in order if probabilities[index] >= threshold][: query.top_k]
    medications = tuple((predictor.medications[index], round(float(probabilities[index]), 6)) for index in chosen)
    named = (*(code for code, _ in medications), *query.also_named)
    return Prediction(
        version=predictor.version,
        threshold=float(threshold),
        medications=medications,
        names={code: predictor.medication_names.get(code, code) for code in named},
        unknown_codes=tuple(predictor.unknown_codes(query.record)),
        confidence=confidence(probabilities, predictor.threshold),
        prompt_truncated=truncated,
    )


def card(predictor: Vocabulary) -> ModelCard:
    return ModelCard(predictor.version, float(predictor.threshold), len(predictor.medications))


class PredictionError(RuntimeError):
    """A model failed on a request. Says where, never on what."""


@contextmanager
def without_patient_content(model: ModelName) -> Iterator[None]:
    """Replace any error by one without a message, since Serve logs errors and theirs may quote a patient's codes."""
    try:
        yield
    except Exception as error:
        log_failure(model, error)
        raise PredictionError(f"The {model} failed ({type(error).__name__}).") from None


def log_failure(where: str, error: BaseException) -> None:
    """Log an error's class and the lines it passed through, but not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " <- ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    request_id = current_request_id.get() or "-"
    logger.error("%s failed on request %s: %s at %s", where, request_id, type(error).__name__, places)

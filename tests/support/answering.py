"""The HTTP application around models in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fastapi import FastAPI

from leader_platform.config import ServeConfig
from leader_platform.data.records import PatientRecord
from leader_serve.http_api import build_http
from leader_serve.prediction import Model, ModelCard, Prediction, Query, card, choose
from leader_serve.recommender import Recommender
from leader_serve.router import Router
from leader_serve.safety import InteractionTable

INTERACTION = {"code_a": "ATC:A02B", "code_b": "ATC:B01A", "severity": "major", "reason": "why", "source": "example"}


class InMemory:
    """A predictor with three medications, called as a deployment is."""

    medications = ("ATC:A02B", "ATC:B01A", "ATC:C09A")
    medication_names = {"ATC:A02B": "ulcer", "ATC:B01A": "thrombosis", "ATC:C09A": "ace", "ATC:N02B": "pain"}  # noqa: RUF012
    threshold = 0.5

    def __init__(self, version: str, error: Exception | None = None) -> None:
        self.version = version
        self.error = error

    def unknown_codes(self, record: PatientRecord) -> list[str]:
        return [code for code in record.current.diagnoses if code == "ICD10CM:X9"]

    async def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        if self.error is not None:
            raise self.error
        return [choose(self, query, np.array([0.6, 0.9, 0.2], np.float32)) for query in queries]

    async def describe(self) -> ModelCard:
        if self.error is not None:
            raise self.error
        return card(self)


def application(student: Model, teacher: Model | None = None, config: ServeConfig | None = None) -> FastAPI:
    """With one known interaction, of two of the three medications."""
    config = config or ServeConfig()
    return build_http(Recommender(Router(student, teacher, config), InteractionTable([INTERACTION]), config))

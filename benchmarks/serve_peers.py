"""Servers of the student that `serve.py` measures ours beside: `python serve_peers.py NAME`, with LEADER_RUN and PORT.

`uvicorn` is a bare FastAPI application; `ours-without-serve` is our own, with router and micro-batching, on uvicorn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
import uvicorn
from fastapi import FastAPI

from leader_platform.config import ServeConfig
from leader_platform.predict import StudentPredictor
from leader_serve.http_api import build_http
from leader_serve.observer import Observer
from leader_serve.prediction import Query, choose
from leader_serve.recommender import Recommender, answer_of
from leader_serve.router import Routed, Router
from leader_serve.routing import Route
from leader_serve.safety import InteractionTable
from leader_serve.schemas import (
    RecommendationAnswer,
    RecommendationRequest,
    RouteReason,
    current_medications,
    to_record,
)
from leader_serve.student import Student

HOST = "127.0.0.1"
PATH = "/v1/recommendations"


class Answering:
    """The student and the interaction table, without a server."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._student = StudentPredictor.load(os.environ["LEADER_RUN"])
        self._interactions = InteractionTable.load(os.environ["LEADER_RUN"])

    def answer_all(self, requests: list[RecommendationRequest]) -> list[RecommendationAnswer]:
        queries = [
            Query(to_record(request), request.threshold, request.top_k, current_medications(request))
            for request in requests
        ]
        rows = self._student.predict([query.record for query in queries])
        route = Route("student", RouteReason.REQUESTED)
        return [
            answer_of(request, Routed(route, choose(self._student, query, row)), self._interactions)
            for request, query, row in zip(requests, queries, rows, strict=True)
        ]

    def answer(self, request: RecommendationRequest) -> RecommendationAnswer:
        return self.answer_all([request])[0]


def run_uvicorn(app: FastAPI, port: int) -> None:
    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


def bare(port: int) -> None:
    """What one writes first: one worker, one endpoint, one patient at a time."""
    answering, app = Answering(), FastAPI()

    @app.post(PATH)
    async def recommend(request: RecommendationRequest) -> RecommendationAnswer:
        return answering.answer(request)

    run_uvicorn(app, port)


def without_serve(port: int) -> None:
    torch.set_num_threads(1)
    config, run = ServeConfig(), os.environ["LEADER_RUN"]
    router = Router(Student(run, Observer()), None, config)
    run_uvicorn(build_http(Recommender(router, InteractionTable.load(run), config)), port)


SERVERS: dict[str, Callable[[int], None]] = {"uvicorn": bare, "ours-without-serve": without_serve}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](int(os.environ["PORT"]))

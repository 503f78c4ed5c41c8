"""The servers that `serve.py` measures ours beside. Each reads, answers and writes the same JSON with the same student.

A server is run as `python benchmarks/serve_peers.py NAME`, with the run in LEADER_RUN and the port in PORT. `batched`
lets LitServe and BentoML gather requests as their documentation tells; `ours-without-serve` is our own application,
router and micro-batching included, on uvicorn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

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
from leader_serve.student import MAX_BATCH_SIZE, Student

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


def litserve(port: int, batched: bool = False) -> None:
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.answering = Answering()

        def decode_request(self, request: dict[str, Any], **_: Any) -> RecommendationRequest:
            return RecommendationRequest.model_validate(request)

        def predict(self, inputs: Any, **_: Any) -> Any:
            return self.answering.answer_all(inputs) if batched else self.answering.answer(inputs)

        def encode_response(self, output: RecommendationAnswer, **_: Any) -> dict[str, Any]:
            return output.model_dump(mode="json")

    batching = {"max_batch_size": MAX_BATCH_SIZE, "batch_timeout": 0.002} if batched else {}
    server = litserve.LitServer(Api(api_path=PATH, **batching), accelerator="cpu", workers_per_device=1)
    server.run(host=HOST, port=port, num_api_servers=1, log_level="warning", generate_client_file=False)


def bentoml_service(batched: bool) -> Any:
    import bentoml

    @bentoml.service(name="recommendation", workers=1)
    class Single:
        def __init__(self) -> None:
            self.answering = Answering()

        @bentoml.api(route=PATH)
        def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
            return self.answering.answer(request)

    @bentoml.service(name="recommendation", workers=1)
    class Batched:
        def __init__(self) -> None:
            self.answering = Answering()

        @bentoml.api(route=PATH, batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=1000)
        def recommend(self, requests: list[RecommendationRequest]) -> list[RecommendationAnswer]:
            return self.answering.answer_all(requests)

    return Batched if batched else Single


def bentoml(port: int, batched: bool = False) -> None:
    """BentoML starts its worker by the service's name in a module, as its command does."""
    name = "batched_service" if batched else "single_service"
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    module = f"serve_peers:{name}"
    options = ["--host", HOST, "--port", str(port), "--working-dir", ".", "--quiet"]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", module, *options])


def __getattr__(name: str) -> Any:  # BentoML alone asks for these, and only where it is installed
    if name in ("single_service", "batched_service"):
        return bentoml_service(batched=name == "batched_service")
    raise AttributeError(name)


SERVERS: dict[str, Callable[[int], None]] = {
    "uvicorn": bare,
    "ours-without-serve": without_serve,
    "litserve": litserve,
    "litserve-batched": lambda port: litserve(port, batched=True),
    "bentoml": bentoml,
    "bentoml-batched": lambda port: bentoml(port, batched=True),
}
# What each wants around a request's own JSON.
WRAPPERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bentoml": lambda request: {"request": request},
    "bentoml-batched": lambda request: {"requests": [request]},
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](int(os.environ["PORT"]))

"""The student under LitServe, for `serve.py`; `python serve_litserve.py [batched]`, with LEADER_RUN and PORT."""

# No `from __future__ import annotations`: LitServe reads those of its API's methods as classes.

import os
import sys
from typing import Any

import litserve

from leader_serve.schemas import RecommendationAnswer, RecommendationRequest
from leader_serve.student import MAX_BATCH_SIZE
from serve_peers import HOST, PATH, Answering


class Api(litserve.LitAPI):
    """One patient at a time."""

    def setup(self, device: str) -> None:
        self.answering = Answering()

    def decode_request(self, request) -> RecommendationRequest:
        return RecommendationRequest.model_validate(request)

    def predict(self, request: RecommendationRequest) -> RecommendationAnswer:
        return self.answering.answer(request)

    def encode_response(self, output: RecommendationAnswer) -> dict[str, Any]:
        return output.model_dump(mode="json")


class BatchedApi(Api):
    """Those that came within two milliseconds together."""

    def batch(self, inputs: list[RecommendationRequest]) -> list[RecommendationRequest]:
        return inputs

    def predict(self, requests: list[RecommendationRequest]) -> list[RecommendationAnswer]:
        return self.answering.answer_all(requests)

    def unbatch(self, output: list[RecommendationAnswer]) -> list[RecommendationAnswer]:
        return output


if __name__ == "__main__":
    if "batched" in sys.argv:
        api: Api = BatchedApi(api_path=PATH, max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.002)
    else:
        api = Api(api_path=PATH)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    port = int(os.environ["PORT"])
    server.run(host=HOST, port=port, num_api_servers=1, log_level="warning", generate_client_file=False)

"""The HTTP endpoints around models in memory: status codes, error shapes, and no patient content in errors or logs."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import answering
from support.answering import InMemory

from leader_platform.config import LeaderConfig, ServeConfig
from leader_platform.errors import RunError, UserError
from leader_platform.settings import load_config
from leader_serve.client import LeaderClient
from leader_serve.guard import MAX_BODY_BYTES
from leader_serve.http_api import build_http
from leader_serve.keys import KeyRing, add_key
from leader_serve.observer import Observer
from leader_serve.prediction import Model, without_patient_content
from leader_serve.recommender import Recommender
from leader_serve.router import ModelOverloadedError, Router
from leader_serve.safety import InteractionTable

INTERACTION = {"code_a": "ATC:A02B", "code_b": "ATC:B01A", "severity": "major", "reason": "why", "source": "example"}
KNOWN = {"visits": [{"diagnoses": ["ICD10CM:I10"]}, {"diagnoses": ["ICD10CM:X9"], "medications": ["ATC:N02B"]}]}
FIRST = {"visits": [{"diagnoses": ["ICD10CM:I10"]}]}
SECRET = "ICD10CM:S3CRET"


def application(student: Model, teacher: Model | None = None, *settings: str) -> httpx.ASGITransport:
    config: ServeConfig = load_config(LeaderConfig(), None, settings).serve
    return httpx.ASGITransport(answering.application(student, teacher, config), raise_app_exceptions=False)


def call(
    transport: httpx.ASGITransport,
    method: str,
    path: str,
    body: Any = None,
    content: bytes | None = None,
    **headers: str,
) -> httpx.Response:
    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://leader") as client:
            if content is not None:
                return await client.request(
                    method, path, content=content, headers={"content-type": "application/json", **headers}
                )
            return await client.request(method, path, json=body, headers=headers)

    return asyncio.run(once())


def recommend(body: Any, transport: httpx.ASGITransport | None = None) -> httpx.Response:
    return call(transport or application(InMemory("s1"), InMemory("t1")), "POST", "/v1/recommendations", body)


def test_an_answer_holds_what_the_contract_says() -> None:
    answer = recommend(KNOWN).json()
    assert (answer["model"], answer["model_version"], answer["degraded"]) == ("student", "s1", False)
    assert answer["route"]["reason"] == "history-known"
    assert answer["medications"] == [
        {"code": "ATC:B01A", "name": "thrombosis", "probability": 0.9},
        {"code": "ATC:A02B", "name": "ulcer", "probability": 0.6},
    ]
    assert answer["interactions"] == [
        {
            "codes": ["ATC:B01A", "ATC:A02B"],
            "names": ["thrombosis", "ulcer"],
            "between": "recommended",
            "substances": [],
            "severity": "major",
            "reason": "why",
            "source": "example",
        }
    ]
    assert answer["unknown_codes"] == ["ICD10CM:X9"]
    assert "not a medical device" in answer["notice"]


def test_threshold_top_k_and_current_medications() -> None:
    answer = recommend({**KNOWN, "threshold": 0.1, "top_k": 1}).json()
    assert [medication["code"] for medication in answer["medications"]] == ["ATC:B01A"]
    assert answer["threshold"] == 0.1
    answer = recommend({"visits": [{"medications": ["ATC:A02BC01"]}], "top_k": 1}).json()
    (alert,) = answer["interactions"]
    assert (alert["codes"], alert["between"]) == (["ATC:B01A", "ATC:A02BC01"], "recommended-current")
    assert alert["names"][1] == "ATC:A02BC01"


def test_first_visits_go_to_the_teacher_and_degrade_without_one() -> None:
    assert recommend(FIRST).json()["model"] == "teacher"
    answer = recommend(FIRST, application(InMemory("s1"))).json()
    assert (answer["model"], answer["degraded"], answer["route"]["reason"]) == ("student", True, "teacher-unavailable")
    refused = recommend({**FIRST, "model": "teacher"}, application(InMemory("s1")))
    assert refused.status_code == 503
    assert "No teacher is deployed" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"visits": [{"diagnoses": [f"{SECRET} x"]}]}, "visits.0.diagnoses.0"),
        ({**FIRST, "patient": {"age": SECRET}}, "patient.age"),
        ({**FIRST, "model": SECRET}, "model"),
        ({**FIRST, "tresholt": SECRET}, "tresholt"),
        ({"visits": SECRET}, "visits"),
        (SECRET, "body"),
        ([SECRET], "body"),
    ],
)
def test_a_bad_request_is_422_that_names_the_field_and_quotes_nothing(
    body: Any, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = recommend(body)
    assert response.status_code == 422
    assert response.json()["error"]["fields"][0]["field"] == field
    assert SECRET not in response.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"visits": [{}], "top_k": ' + b"9" * 5000 + b"}",
        b'{"visits": [{}], "top_k": 1e400}',
        b'{"visits": [{}], "threshold": NaN}',
        b'{"visits": [{}], "\\ud800": 1}',
        b'{"visits": [{"diagnoses": ["\\ud800"]}]}',
        b"",
    ],
)
@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/recommendations:batch"])
def test_nothing_in_a_body_makes_a_500(path: str, content: bytes) -> None:
    response = call(application(InMemory("s1")), "POST", path, content=content)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


def test_limits_name_the_field() -> None:
    transport = application(InMemory("s1"), None, "serve.max_visits=2", "serve.max_codes=1", "serve.max_batch=1")
    response = recommend({"visits": [{}, {}, {}]}, transport)
    assert (response.status_code, response.json()["error"]["fields"][0]["field"]) == (422, "visits")
    response = recommend({"visits": [{}, {"procedures": ["A:1", "A:2"]}]}, transport)
    assert (response.status_code, response.json()["error"]["fields"][0]["field"]) == (422, "visits.1.procedures")
    response = call(transport, "POST", "/v1/recommendations:batch", {"requests": [FIRST, FIRST]})
    assert (response.status_code, response.json()["error"]["fields"][0]["field"]) == (413, "requests")
    response = call(transport, "POST", "/v1/recommendations", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413


@pytest.mark.parametrize("code", ["RXNORM:11289", "NDC:00093", "ATC:B01", "ATC:B01AA033"])
def test_a_current_medication_that_cannot_be_checked_is_refused(code: str) -> None:
    """An empty list of interactions must mean that none is known, not that nobody looked."""
    body = {"visits": [{"diagnoses": ["ICD10CM:I10"], "medications": ["ATC:C09A", code]}]}
    answer = recommend(body)
    assert answer.status_code == 422
    assert [problem["field"] for problem in answer.json()["error"]["fields"]] == ["visits.0.medications.1"]


def test_a_batch_answers_each_item_on_its_own() -> None:
    body = {"requests": [KNOWN, {"visits": []}, {**FIRST, "model": "teacher"}, 7, FIRST]}
    response = call(application(InMemory("s1")), "POST", "/v1/recommendations:batch", body)
    assert response.status_code == 200
    items = response.json()["items"]
    assert [item["answer"] and item["answer"]["model"] for item in items] == ["student", None, None, None, "student"]
    assert [item["error"] and item["error"]["code"] for item in items] == [
        None,
        "invalid-request",
        "teacher-unavailable",
        "invalid-request",
        None,
    ]


def test_backpressure_and_failure_are_503_with_retry_after(caplog: pytest.LogCaptureFixture) -> None:
    for error in (ModelOverloadedError(), KeyError(SECRET)):
        response = recommend(KNOWN, application(InMemory("s1", error)))
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert SECRET not in response.text + caplog.text


def test_an_unforeseen_error_is_a_500_without_content(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recommender):
        async def recommend(self, request: Any) -> Any:
            raise LookupError(SECRET)

    transport = httpx.ASGITransport(
        build_http(Broken(Router(InMemory("s1"), None, ServeConfig()), InteractionTable(), ServeConfig()))
    )
    response = call(transport, "POST", "/v1/recommendations", KNOWN, **{"X-Request-ID": "id-1"})
    assert response.status_code == 500
    assert SECRET not in response.text + caplog.text
    assert response.json()["request_id"] == "id-1"


def test_without_a_key_nothing_but_health_is_answered(tmp_path: Path) -> None:
    key = add_key(str(tmp_path / "keys.json"), "ward-7")
    recommender = Recommender(Router(InMemory("s1"), None, ServeConfig()), InteractionTable(), ServeConfig())
    statuses: list[int] = []

    class Seen(Observer):
        def responded(self, status: int, seconds: float) -> None:
            statuses.append(status)

    transport = httpx.ASGITransport(build_http(recommender, KeyRing(str(tmp_path / "keys.json")), Seen()))
    for path in ("/healthz", "/readyz"):
        assert call(transport, "GET", path).status_code == 200
    for authorization in ("", "Bearer", f"Bearer {key}x", f"Basic {key}", key):
        refused = call(transport, "POST", "/v1/recommendations", KNOWN, authorization=authorization)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "unauthenticated"
    for path in ("/v1/models", "/docs", "/openapi.json", "/nope"):
        assert call(transport, "GET", path).status_code == 401
    large = call(transport, "POST", "/v1/recommendations", content=b" " * (MAX_BODY_BYTES + 1))
    assert large.status_code == 401  # before its body is read
    for authorization in (f"Bearer {key}", f"bearer  {key} "):
        assert call(transport, "POST", "/v1/recommendations", KNOWN, authorization=authorization).status_code == 200
    assert statuses == [200] * 2 + [401] * 10 + [200] * 2


def test_an_answer_tells_how_sure_it_is_and_keeps_to_its_deadline() -> None:
    answer = recommend({**KNOWN, "deadline_ms": 5000}).json()
    assert answer["confidence"] == pytest.approx(1.5 / 2.2, abs=1e-6)
    assert recommend({**KNOWN, "threshold": 0.0}).json()["confidence"] == answer["confidence"]
    for wrong in (0, -1, 1.5, "soon", 600_001):
        refused = recommend({**KNOWN, "deadline_ms": wrong})
        assert refused.json()["error"]["fields"][0]["field"] == "deadline_ms"


def test_request_ids_are_echoed_or_made() -> None:
    transport = application(InMemory("s1"))
    assert call(transport, "GET", "/healthz", **{"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    made = call(transport, "GET", "/healthz", **{"X-Request-ID": "forged line; x=1"}).headers["X-Request-ID"]
    assert made.isalnum()
    assert call(transport, "GET", "/nope").json()["request_id"]


def test_health_readiness_models_and_documentation() -> None:
    ready, broken = application(InMemory("s1")), application(InMemory("s1", RuntimeError()))
    assert call(broken, "GET", "/healthz").status_code == 200
    assert call(ready, "GET", "/readyz").status_code == 200
    response = call(broken, "GET", "/readyz")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    models = call(ready, "GET", "/v1/models").json()["models"]
    assert [(model["model"], model["available"], model["version"]) for model in models] == [
        ("student", True, "s1"),
        ("teacher", False, None),
    ]
    assert call(ready, "GET", "/docs").status_code == 200
    paths = call(ready, "GET", "/openapi.json").json()
    assert {"/v1/recommendations", "/v1/recommendations:batch"} <= set(paths["paths"])
    assert "RecommendationRequest" in json.dumps(paths["components"]["schemas"]["BatchRequest"])


def test_a_model_error_crosses_processes_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError) as caught, without_patient_content("student"):
        raise KeyError(SECRET)
    assert SECRET not in str(caught.value) + caplog.text
    assert "KeyError" in caplog.text


def test_the_client_turns_answers_into_sentences() -> None:
    transport = application(InMemory("s1"))

    def forward(request: httpx.Request) -> httpx.Response:
        response = call(transport, request.method, request.url.path, content=request.read())
        return httpx.Response(response.status_code, content=response.content, headers=response.headers)

    client = LeaderClient("http://127.0.0.1:1", transport=httpx.MockTransport(forward))
    assert client.recommend(KNOWN).medications[0].code == "ATC:B01A"
    assert client.models().models[0].version == "s1"
    assert client.is_ready()
    answered, refused = client.recommend_all([KNOWN, {"visits": []}])
    assert answered.answer is not None
    assert refused.error is not None
    with pytest.raises(UserError, match=r"visits\.0\.diagnosis: There is no such field"):
        client.recommend({"visits": [{"diagnosis": []}]})
    with pytest.raises(RunError, match="No teacher is deployed"):
        client.recommend({**FIRST, "model": "teacher"})
    with pytest.raises(RunError, match=r"http://127.0.0.1:1.*leader serve deploy"):
        LeaderClient("http://127.0.0.1:1").recommend(KNOWN)
    with pytest.raises(UserError, match="must begin with http"):
        LeaderClient("127.0.0.1:8000")

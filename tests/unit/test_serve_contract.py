"""What the OpenAPI document says is what is answered, whatever is asked; and nothing that is asked makes a 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from support.answering import InMemory, application

schema = schemathesis.openapi.from_asgi("/openapi.json", application(InMemory("s1"), InMemory("t1")))


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=400, suppress_health_check=list(HealthCheck))
def test_answers_are_as_documented(case: Any) -> None:
    # Some rules are none of a schema's: of the last visit alone the medications must be ATC classes or finer.
    # And a batch with a bad item is accepted, since each item is answered on its own.
    excluded = [positive_data_acceptance, *([negative_data_rejection] if case.path.endswith(":batch") else [])]
    case.call_and_validate(excluded_checks=excluded)


# --- patients that are almost right ----------------------------------------------------------------------------------

CODES = st.sampled_from(["ICD10CM:I10", "ICD9CM:4019", "ICD10PCS:5A1D70Z", "ATC:C09A", "ATC:C09AA05", "X:1"])
WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=60), st.lists(st.integers(), max_size=3)
)
LISTS = st.lists(CODES | WRONG, max_size=6) | WRONG
VISITS = st.fixed_dictionaries(
    {}, optional={"diagnoses": LISTS, "procedures": LISTS, "medications": LISTS, "notes": WRONG}
)
PROFILES = st.dictionaries(
    st.sampled_from(["gender", "age", "insurance", "language", "marital_status", "race", "name"]),
    WRONG | st.sampled_from(["F", "ENGLISH", 71, 71.5, -1, 1e308]),
)
REQUESTS = st.fixed_dictionaries(
    {"visits": st.lists(VISITS | WRONG, max_size=4) | WRONG},
    optional={
        "patient": PROFILES | WRONG,
        "model": st.sampled_from(["auto", "student", "teacher", "shadow"]) | WRONG,
        "threshold": st.floats(0, 1) | WRONG,
        "top_k": st.integers(1, 9) | WRONG,
        "deadline_ms": st.integers(1, 9000) | WRONG,
    },
)
APPLICATION = application(InMemory("s1"), InMemory("t1"))


def post(path: str, body: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(APPLICATION)
        async with httpx.AsyncClient(transport=transport, base_url="http://leader") as client:
            content = json.dumps(body).encode()  # with NaN and infinities, which are no JSON
            return await client.post(path, content=content, headers={"content-type": "application/json"})

    return asyncio.run(once())


@pytest.mark.slow
@settings(max_examples=2000)
@given(REQUESTS)
def test_no_patient_makes_a_500(request: dict[str, Any]) -> None:
    answer = post("/v1/recommendations", request)
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        assert answer.json()["error"]["fields"]


@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(REQUESTS | WRONG, min_size=1, max_size=8))
def test_no_batch_makes_a_500(requests: list[Any]) -> None:
    answer = post("/v1/recommendations:batch", {"requests": requests})
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        items = answer.json()["items"]
        assert len(items) == len(requests)
        assert all((item["answer"] is None) != (item["error"] is None) for item in items)

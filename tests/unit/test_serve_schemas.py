"""The HTTP contract: what is accepted, what is refused and by which name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from leader_platform.data.records import Visit
from leader_serve.schemas import (
    BatchAnswer,
    BatchRequest,
    ErrorAnswer,
    RecommendationAnswer,
    RecommendationRequest,
    current_medications,
    to_record,
)

REQUEST: dict[str, Any] = {
    "patient": {"gender": "F", "age": 71},
    "visits": [
        {"diagnoses": ["ICD10CM:I10", "ICD10CM:I10"], "procedures": [], "medications": ["ATC:C09A"]},
        {"diagnoses": ["ICD10CM:N179"], "procedures": ["ICD9PCS:3961"], "medications": ["ATC:B01A"]},
    ],
}


def test_the_last_visit_is_current_and_its_medications_reach_no_model() -> None:
    request = RecommendationRequest.model_validate(REQUEST)
    record = to_record(request)
    assert record.history == (Visit(("ICD10CM:I10",), (), ("ATC:C09A",)),)
    assert record.current == Visit(("ICD10CM:N179",), ("ICD9PCS:3961",), ())
    assert record.profile == {"gender": "F", "age": 71}
    assert str(record.profile["age"]) == "71"
    assert current_medications(request) == ("ATC:B01A",)


def test_defaults() -> None:
    request = RecommendationRequest.model_validate({"visits": [{}]})
    assert (request.model, request.deadline_ms, request.threshold, request.top_k) == (None,) * 4
    assert to_record(request).is_first_visit


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"visits": []}, ("visits",)),
        ({"visit": []}, ("visit",)),
        ({"patient": {"sex": "F"}}, ("patient", "sex")),
        ({"patient": {"age": 121}}, ("patient", "age")),
        ({"patient": {"age": -1}}, ("patient", "age")),
        ({"patient": {"age": float("nan")}}, ("patient", "age")),
        ({"patient": {"age": True}}, ("patient", "age")),
        ({"patient": {"race": "x" * 65}}, ("patient", "race")),
        ({"visits": [{"diagnosis": []}]}, ("visits", 0, "diagnosis")),
        ({"visits": [{"diagnoses": ["I10"]}]}, ("visits", 0, "diagnoses", 0)),
        ({"visits": [{"diagnoses": ["ICD10CM:I10\n"]}]}, ("visits", 0, "diagnoses", 0)),
        ({"visits": [{"diagnoses": ["icd10cm:i10"]}]}, ("visits", 0, "diagnoses", 0)),
        ({"threshold": 1.1}, ("threshold",)),
        ({"threshold": "0.5"}, ("threshold",)),
        ({"top_k": 0}, ("top_k",)),
        ({"top_k": 1.5}, ("top_k",)),
        ({"model": "both"}, ("model",)),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(change: dict[str, Any], field: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        RecommendationRequest.model_validate({**REQUEST, **change})
    assert [error["loc"] for error in caught.value.errors()] == [field]


@pytest.mark.parametrize(
    "message", [RecommendationRequest, BatchRequest, RecommendationAnswer, BatchAnswer, ErrorAnswer]
)
def test_the_documentations_examples_are_messages_that_are_sent(message: type[BaseModel]) -> None:
    (example,) = message.model_json_schema()["examples"]
    message.model_validate(example)
    assert example.keys() <= message.model_fields.keys()

"""What travels over HTTP: requests, answers and errors. A misspelt field is an error, not silence."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, StringConstraints
from pydantic.config import JsonDict

from leader_platform.data.records import PROFILE_FIELDS, PatientRecord, Visit

NOTICE = (
    "Research use: decision support for clinicians, not a medical device. "
    "A clinician must check every recommendation and interaction before acting on it."
)

Code = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Z0-9]+:[A-Z0-9.]+$", max_length=40),
]
ProfileText = Annotated[str, StringConstraints(max_length=64)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]


class ModelChoice(StrEnum):
    """What a caller may ask for, and a deployment's policy."""

    AUTO = "auto"
    STUDENT = "student"
    TEACHER = "teacher"
    SHADOW = "shadow"


class RouteReason(StrEnum):
    """Why a request went where it went."""

    REQUESTED = "requested"
    POLICY = "policy"
    SHADOW = "shadow"
    FIRST_VISIT = "first-visit"
    LOW_CONFIDENCE = "low-confidence"
    HISTORY_KNOWN = "history-known"
    TEACHER_UNAVAILABLE = "teacher-unavailable"
    TEACHER_FAILED = "teacher-failed"
    TEACHER_TIMEOUT = "teacher-timeout"
    TEACHER_OVERLOADED = "teacher-overloaded"
    DEADLINE = "deadline"


ModelName = Literal["student", "teacher"]
ReleaseName = Literal["stable", "canary"]
Between = Literal["recommended", "recommended-current"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answered(_Message):
    """Part of an answer: a client must understand a newer server that says more."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class PatientProfile(_Message):
    """Who the patient is; a field that is not known is left out or null."""

    gender: ProfileText | None = Field(default=None, examples=["F"])
    age: float | None = Field(
        default=None, ge=0, le=120, strict=True, allow_inf_nan=False, description="Years.", examples=[71]
    )
    insurance: ProfileText | None = Field(default=None, examples=["Medicare"])
    language: ProfileText | None = Field(default=None, examples=["ENGLISH"])
    marital_status: ProfileText | None = Field(default=None, examples=["MARRIED"])
    race: ProfileText | None = Field(default=None, examples=["WHITE"])


class VisitCodes(_Message):
    """One hospital stay's codes, each with its system: `ICD10CM:I10`, `ICD9PCS:3961`, `ATC:C09A`."""

    diagnoses: list[Code] = Field(default_factory=list, examples=[["ICD10CM:I10", "ICD10CM:N179"]])
    procedures: list[Code] = Field(default_factory=list, examples=[["ICD10PCS:5A1D70Z"]])
    medications: list[Code] = Field(
        default_factory=list,
        description=(
            "ATC classes. Of the current visit they are the patient's current medications, better as substances "
            "(ATC:C09AA05): they are checked for interactions with what is recommended, and no model reads them."
        ),
        examples=[["ATC:C09A"]],
    )


_EXAMPLE_REQUEST: JsonDict = {
    "patient": {
        "insurance": "Medicare",
        "language": "ENGLISH",
        "marital_status": "MARRIED",
        "race": "WHITE",
        "gender": "F",
        "age": 71,
    },
    "visits": [
        {"diagnoses": ["ICD10CM:I10"], "procedures": [], "medications": ["ATC:C09A"]},
        {"diagnoses": ["ICD10CM:I10", "ICD10CM:N179"], "procedures": []},
    ],
    "model": "auto",
    "threshold": None,
    "top_k": None,
}


class RecommendationRequest(_Message):
    """A patient, the visits in time order with the current one last, and what to answer with."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [_EXAMPLE_REQUEST]})

    patient: PatientProfile = PatientProfile()
    visits: list[VisitCodes] = Field(min_length=1, description="Oldest first; the last one is the current visit.")
    model: ModelChoice | None = Field(
        default=None,
        description=(
            "auto: the student, and the teacher where there is no earlier visit or the student is unsure. shadow: the "
            "student, while the teacher is asked now and then for comparison. null: the deployment's policy."
        ),
    )
    deadline_ms: int | None = Field(
        default=None,
        ge=1,
        le=600_000,
        strict=True,
        description="Milliseconds within which an answer is of use; the teacher is asked only where it fits.",
    )
    threshold: Fraction | None = Field(
        default=None,
        description="Least probability of a recommended medication; null: the model's own.",
    )
    top_k: int | None = Field(
        default=None, ge=1, strict=True, description="At most so many medications; null: no limit."
    )


class BatchRequest(_Message):
    """Several requests, each checked and answered on its own: one bad item does not fail the others."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"requests": [_EXAMPLE_REQUEST]}]}
    )

    requests: list[SkipValidation[RecommendationRequest]] = Field(min_length=1)


class RouteAnswer(_Answered):
    """Why this model answered."""

    reason: RouteReason
    text: str = Field(description="The reason as a sentence.")


class RecommendedMedication(_Answered):
    code: str = Field(examples=["ATC:C09A"])
    name: str = Field(examples=["ACE inhibitors, plain"])
    probability: float = Field(ge=0, le=1)


class InteractionAlert(_Answered):
    """A known interaction of two medications, both recommended or one recommended and one current."""

    codes: tuple[str, str] = Field(description="In `recommended-current` the recommended one first.")
    names: tuple[str, str]
    between: Between
    substances: list[str] = Field(
        default_factory=list,
        description="Those of the recommended class that interact; empty: the class as a whole.",
        examples=[["simvastatin", "lovastatin"]],
    )
    severity: str | None = Field(description="As the source says it; null where it says none.")
    reason: str
    source: str


_EXAMPLE_ANSWER: JsonDict = {
    "model": "student",
    "model_version": "3f9a1c0d",
    "route": {"reason": "history-known", "text": "Earlier visits are known, so the student answered."},
    "degraded": False,
    "threshold": 0.31,
    "confidence": 0.52,
    "medications": [{"code": "ATC:B01A", "name": "Antithrombotic agents", "probability": 0.93}],
    "interactions": [
        {
            "codes": ["ATC:B01A", "ATC:N02B"],
            "names": ["Antithrombotic agents", "Other analgesics and antipyretics"],
            "between": "recommended-current",
            "severity": "major",
            "reason": "Higher risk of bleeding.",
            "source": "example",
        }
    ],
    "unknown_codes": [],
    "prompt_truncated": None,
    "notice": NOTICE,
}


class RecommendationAnswer(_Answered):
    """What is recommended, by which model and why, and what speaks against it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE_ANSWER]})

    model: ModelName
    model_version: str
    route: RouteAnswer
    degraded: bool = Field(description="The teacher was wanted, but the student answered.")
    threshold: float = Field(description="The least probability that was recommended.")
    confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The Jaccard index that the model expects of what it recommends, at its own threshold, and what "
        "will be prescribed.",
    )
    medications: list[RecommendedMedication] = Field(description="Highest probability first.")
    interactions: list[InteractionAlert]
    unknown_codes: list[str] = Field(description="Codes of the request that the model never met in training.")
    prompt_truncated: bool | None = Field(default=None, description="Teacher only: whether old history was cut.")
    notice: str = NOTICE


class FieldProblem(_Message):
    field: str = Field(examples=["visits.0.diagnoses.2"])
    message: str


class ErrorDetail(_Message):
    code: str = Field(examples=["invalid-request"])
    message: str
    fields: list[FieldProblem] = Field(default_factory=list)


CODE_RULE = "A code is SYSTEM:CODE in capitals and digits, such as ICD10CM:I10 or ATC:C09A."
_EXAMPLE_ERROR: JsonDict = {
    "code": "invalid-request",
    "message": f"visits.0.diagnoses.2: {CODE_RULE}",
    "fields": [{"field": "visits.0.diagnoses.2", "message": CODE_RULE}],
}


class ErrorAnswer(_Message):
    """What went wrong, without a word of the request's content."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"error": _EXAMPLE_ERROR, "request_id": "3f9a1c0d"}]},
    )

    error: ErrorDetail
    request_id: str | None = Field(default=None, description="The same as the header X-Request-ID.")


class BatchItem(_Message):
    """Exactly one of the two is set."""

    answer: RecommendationAnswer | None = None
    error: ErrorDetail | None = None


class BatchAnswer(_Message):
    """One item a request, in the requests' order."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"items": [{"answer": _EXAMPLE_ANSWER, "error": None}, {"answer": None, "error": _EXAMPLE_ERROR}]}
            ]
        },
    )

    items: list[BatchItem]


class ModelStatus(_Answered):
    model: ModelName
    release: ReleaseName = "stable"
    available: bool
    version: str | None = None
    threshold: float | None = None
    num_medications: int | None = None


class ModelsAnswer(_Message):
    models: list[ModelStatus]
    notice: str = NOTICE


class HealthAnswer(_Message):
    status: str


def to_record(request: RecommendationRequest) -> PatientRecord:
    """The patient as the models see one: the current visit's medications, if given, are left out."""
    *earlier, current = request.visits
    profile = request.patient.model_dump(exclude_none=True)
    if float(profile.get("age", 0.5)).is_integer():
        profile["age"] = int(profile["age"])  # The teacher reads ages as text: 71, not 71.0.
    return PatientRecord(
        profile=profile,
        history=tuple(
            Visit(_distinct(visit.diagnoses), _distinct(visit.procedures), _distinct(visit.medications))
            for visit in earlier
        ),
        current=Visit(_distinct(current.diagnoses), _distinct(current.procedures)),
    )


def request_of_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample of a prepared data set as the JSON of a request, without its labels."""
    return {
        "patient": {name: sample[name] for name in PROFILE_FIELDS if sample[name] is not None},
        "visits": [*sample["history"], {"diagnoses": sample["diagnoses"], "procedures": sample["procedures"]}],
    }


def current_medications(request: RecommendationRequest) -> tuple[str, ...]:
    """What the patient takes already, as far as the request tells."""
    return _distinct(request.visits[-1].medications)


def _distinct(codes: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(codes))

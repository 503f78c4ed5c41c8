"""Why a request is not answered, told by field name and rule and never by value: values are patient data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leader_serve.schemas import CODE_RULE, ErrorDetail, FieldProblem

_MAX_PROBLEMS = 20
_MAX_NAME = 64


class ServingError(RuntimeError):
    """A request that cannot be answered now, through no fault of its own."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidRequestError(ValueError):
    """The request breaks the contract; `status` is 422, or 413 where it is only too much."""

    def __init__(self, problems: Sequence[FieldProblem], status: int = 422, code: str = "invalid-request") -> None:
        problem = problems[0]
        super().__init__(problem.message)
        self.status = status
        self.detail = ErrorDetail(
            code=code, message=f"{problem.field}: {problem.message}", fields=list(problems[:_MAX_PROBLEMS])
        )


def too_large(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError([FieldProblem(field=field, message=message)], status=413, code="too-large")


def fields_of(errors: Sequence[Any]) -> list[FieldProblem]:
    """Pydantic's errors as fields and rules. Of an input it keeps at most a misspelt field's name, cut and in ASCII."""
    return [FieldProblem(field=_name(error["loc"]), message=_message(error["type"], error["msg"])) for error in errors]


def _name(location: Sequence[int | str]) -> str:
    parts = location[1:] if location and location[0] == "body" else location
    names = (str(part)[:_MAX_NAME].encode("ascii", "replace").decode() for part in parts)
    return ".".join(name if name.isprintable() else "?" for name in names) or "body"


def _message(kind: str, message: str) -> str:
    if kind == "string_pattern_mismatch":
        return CODE_RULE
    if kind == "extra_forbidden":
        return "There is no such field."
    if kind == "json_invalid":
        return "The body is not valid JSON."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "This should be a JSON object."
    return message if message.endswith(".") else f"{message}."

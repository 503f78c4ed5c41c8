"""What a teacher that does not fit tells whoever deploys it."""

from __future__ import annotations

from typing import Any

import pytest

from leader_platform.errors import RunError
from leader_platform.predict import TeacherPredictor
from leader_serve.teacher import Teacher


@pytest.mark.parametrize(
    ("engine", "gpus", "expected"),
    [
        ("vllm", 0.5, r"resources\.gpus_per_worker=0\.5 .*--no-teacher"),
        ("vllm", 0.0, r"lower features\.kv_cache_gb \(3\).*--no-teacher"),
        ("transformers", 1.0, r"serve\.teacher_engine=vllm.*--no-teacher"),
    ],
)
def test_a_teacher_that_does_not_fit_names_what_helps(
    monkeypatch: pytest.MonkeyPatch, engine: str, gpus: float, expected: str
) -> None:
    given: list[Any] = []

    def load(run: str, *others: Any) -> None:
        given.append((run, others))
        raise ValueError(
            "Free memory on device cuda:0 (3/80 GiB) on startup is less than desired GPU memory utilization"
        )

    monkeypatch.setattr(TeacherPredictor, "load", load)
    with pytest.raises(RunError, match=rf"The teacher ran out of memory; .*{expected}"):
        Teacher("run", engine, "auto", gpus, 3.0)
    assert given == [("run", (engine, "auto", gpus))]

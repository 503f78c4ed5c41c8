"""The student's micro-batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from leader_platform.data.records import PatientRecord
from leader_platform.predict import StudentPredictor
from leader_serve.observer import Observer
from leader_serve.prediction import Prediction, Query
from leader_serve.student import Student


class Constant:
    """A predictor that gives every medication the same probability."""

    threshold = 0.0

    def __init__(self, number: int) -> None:
        self.version = str(number)
        self.medications = tuple(f"ATC:A{index:02}A" for index in range(number))
        self.medication_names: dict[str, str] = {}

    def unknown_codes(self, record: PatientRecord) -> list[str]:
        return []

    def predict(self, records: Sequence[PatientRecord]) -> np.ndarray:
        time.sleep(0.02)  # so that others arrive meanwhile
        return np.full((len(records), len(self.medications)), 0.5, np.float32)


class Batches(Observer):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def student_batch(self, size: int) -> None:
        self.sizes.append(size)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A student of so many medications."""

    def student(number: int, observer: Observer) -> Student:
        monkeypatch.setattr(StudentPredictor, "load", lambda run: Constant(number))
        return Student("run", observer)

    return student


def test_what_arrives_meanwhile_is_answered_together(load: Any) -> None:
    seen = Batches()
    student = load(3, seen)

    async def ask() -> list[list[Prediction]]:
        first = asyncio.create_task(student.predict([Query(PatientRecord())]))
        await asyncio.sleep(0.01)
        return [*await asyncio.gather(*(student.predict([Query(PatientRecord())] * 2) for _ in range(5))), await first]

    answers = asyncio.run(ask())
    assert [len(answer) for answer in answers] == [2] * 5 + [1]
    assert seen.sizes == [1, 10]


def test_two_students_in_one_process_answer_their_own_patients(load: Any) -> None:
    stable, canary = load(3, Batches()), load(5, Batches())

    async def ask() -> list[list[Prediction]]:
        return await asyncio.gather(*(one.predict([Query(PatientRecord())]) for one in (stable, canary) * 8))

    answers = [prediction for (prediction,) in asyncio.run(ask())]
    assert [(len(answer.medications), answer.version) for answer in answers] == [(3, "3"), (5, "5")] * 8

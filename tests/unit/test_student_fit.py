"""A student's training in memory: it learns, keeps its best, goes on where it was, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from leader_jobs.student_fit import Examples, StudentTraining
from leader_platform.config import EvaluateConfig, StudentConfig
from leader_platform.data.records import PROFILE_FIELDS
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def table(*names: str) -> dict[str, int]:
    return {name: index for index, name in enumerate((*SPECIAL, *names))}


VOCABULARY = Vocabulary(
    codes={
        "diagnoses": table("D0", "D1", "D2", "D3"),
        "procedures": table("P0"),
        "medications": table("M0", "M1", "M2", "M3"),
    },
    profile={name: table("A") for name in PROFILE_FIELDS},
)


def samples(numbers: list[int], labels: list[list[str]] | None = None, width: int = 0) -> Examples:
    """Sample n has diagnosis Dn, was given Mn before, and is given Mn and M3 now."""
    rows = [
        {
            "sample_id": f"s{place}",
            "history": [{"diagnoses": [], "procedures": [], "medications": [f"M{n}"]}],
            "diagnoses": [f"D{n}"],
            "procedures": [],
            "labels": [f"M{n}", "M3"] if labels is None else labels[place],
            **dict.fromkeys(PROFILE_FIELDS[2:], "A"),
        }
        for place, n in enumerate(numbers)
    ]
    batch = pa.Table.from_pylist(rows)
    if width:
        states = pa.array(np.ones((len(rows), width), np.float32).tolist(), pa.list_(pa.float32(), width))
        batch = batch.append_column("hidden_state", states)
    return Examples.encode([batch] if rows else [], VOCABULARY)


def training(
    train: Examples, validation: Examples, frequency: tuple[float, ...] = (0.3, 0.3, 0.3, 1.0), **changes: Any
) -> StudentTraining:
    settings = {"width": 8, "heads": 2, "feed_forward": 12, "batch_size": 4, "learning_rate": 0.01, "max_epochs": 8}
    config = StudentConfig(**{**settings, **changes})
    return StudentTraining(config, EvaluateConfig(), VOCABULARY, train, validation, torch.tensor(frequency))


TRAIN, VALIDATION = samples([0, 1, 2] * 4, width=3), samples([0, 1, 2])


def run(student: StudentTraining) -> list[dict[str, Any]]:
    told = []
    while not student.ended:
        told.append(student.run_epoch())
    return told


def weights(student: StudentTraining, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    student.save(folder)
    return load_file(folder / "best-model.safetensors")


def test_samples_become_examples() -> None:
    assert len(TRAIN) == 12
    assert TRAIN.targets(np.array([1, 0]), 4).tolist() == [[0, 1, 0, 1], [1, 0, 0, 1]]
    assert TRAIN.teacher_states is not None
    assert TRAIN.teacher_states.shape == (12, 3)
    assert VALIDATION.teacher_states is None


def test_a_student_learns_what_its_samples_say() -> None:
    student = training(TRAIN, VALIDATION, max_epochs=30, patience=30)
    told = run(student)
    assert [line["epoch"] for line in told] == list(range(1, 31))
    assert told[-1]["loss"] < 0.5 * told[0]["loss"]
    assert student.best_prauc == max(line["validation_prauc"] for line in told) == 1


def test_training_ends_when_validation_does_not_improve() -> None:
    student = training(TRAIN, VALIDATION, learning_rate=1e-9, patience=3, max_epochs=50)
    assert len(run(student)) == 4


def test_the_best_epochs_weights_are_kept(tmp_path: Path) -> None:
    """Labels that say the opposite of training make every epoch worse than the first."""
    opposite = samples([0, 1, 2], [["M1"], ["M2"], ["M0"]])
    student = training(TRAIN, opposite, patience=6)
    student.run_epoch()
    first = {name: weight.clone() for name, weight in student.model.state_dict().items()}
    told = run(student)
    assert told[-1]["validation_prauc"] < student.best_prauc
    best = weights(student, tmp_path)
    assert set(first) - set(best) == {"to_teacher.weight", "to_teacher.bias"}
    for name, weight in best.items():
        torch.testing.assert_close(weight, first[name])


def test_a_saved_and_restored_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = training(TRAIN, VALIDATION), training(TRAIN, VALIDATION)
    told = run(undisturbed)
    for _ in range(3):
        killed.run_epoch()
    killed.save(tmp_path)
    killed.run_epoch()  # lost with its worker
    resumed = training(TRAIN, VALIDATION)
    resumed.restore(tmp_path)
    assert resumed.epoch == 3
    assert run(resumed) == told[3:]
    expected, actual = weights(undisturbed, tmp_path / "a"), weights(resumed, tmp_path / "b")
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, atol=1e-6, rtol=0)


def test_equal_seeds_give_equal_trainings() -> None:
    assert run(training(TRAIN, VALIDATION)) == run(training(TRAIN, VALIDATION))
    assert run(training(TRAIN, VALIDATION)) != run(training(TRAIN, VALIDATION, seed=1))


def test_one_sample_is_enough_to_train_on() -> None:
    student = training(samples([0], width=3), VALIDATION, max_epochs=2)
    assert all(np.isfinite(line["loss"]) for line in run(student))


def test_a_class_with_no_positives_is_trained() -> None:
    student = training(samples([0, 1]), VALIDATION, frequency=(0.5, 0.5, 0.0, 1.0), max_epochs=2)
    assert all(np.isfinite(line["loss"]) for line in run(student))


def test_a_sample_with_no_known_medication_is_trained_on() -> None:
    student = training(samples([0, 1], [["M0"], ["M9"]]), VALIDATION, max_epochs=2)
    assert all(np.isfinite(line["loss"]) for line in run(student))


def test_a_loss_that_is_no_number_is_told() -> None:
    with pytest.raises(UserError, match=r"student's loss became nan at step \d; lower student.learning_rate"):
        run(training(TRAIN, VALIDATION, learning_rate=1e30))


@pytest.mark.parametrize(
    ("train", "validation", "told"),
    [
        (samples([]), VALIDATION, "no training samples; lower student.num_workers"),
        (TRAIN, samples([]), "validation split has no samples"),
        (TRAIN, samples([0, 1], [[], ["M9"]]), "validation split has no sample with a medication"),
    ],
    ids=["no training", "no validation", "no labels"],
)
def test_what_cannot_be_trained_is_told(train: Examples, validation: Examples, told: str) -> None:
    with pytest.raises(UserError, match=told):
        training(train, validation)

"""The student: what its answer may and may not depend on, and that all of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from leader_platform.config import StudentConfig
from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.models.encoding import Ragged, encode_records, medication_sets, table_offsets
from leader_platform.models.losses import alignment_loss, distillation_loss, recommendation_loss
from leader_platform.models.student import Packed, Student, StudentBatch, StudentLoss, StudentOutput, collate
from leader_platform.models.teacher import multi_hot

pytestmark = pytest.mark.usefixtures("one_thread")


def table(*names: str) -> dict[str, int]:
    return {name: index for index, name in enumerate((*SPECIAL, *names))}


VOCABULARY = Vocabulary(
    codes={
        "diagnoses": table(*(f"ICD10CM:D{n}" for n in range(8))),
        "procedures": table(*(f"ICD10PCS:P{n}" for n in range(5))),
        "medications": table(*(f"ATC:M{n}" for n in range(6))),
    },
    profile={name: table("A", "B") for name in PROFILE_FIELDS},
)


def visit(diagnoses: str, procedures: str = "", medications: str = "") -> Visit:
    """`visit("012", "3")` has diagnoses D0 to D2 and procedure P3."""
    return Visit(
        tuple(f"ICD10CM:D{n}" for n in diagnoses),
        tuple(f"ICD10PCS:P{n}" for n in procedures),
        tuple(f"ATC:M{n}" for n in medications),
    )


PROFILE = {"gender": "A", "insurance": "B", "race": "A"}
RECORDS = [
    PatientRecord(PROFILE, current=visit("01")),
    PatientRecord(PROFILE, (visit("0", "1", "23"), visit("4567", "", "1")), visit("234567", "01234")),
    PatientRecord({}, (visit("", "", "0"),), visit("", "2")),
    PatientRecord({"gender": "B"}, tuple(visit("1", "1", "1") for _ in range(5)), visit("7")),
    PatientRecord(),
]
WIDTH = 8


def build(teacher_width: int | None = None, **changes: Any) -> Student:
    torch.manual_seed(0)
    config = StudentConfig(width=WIDTH, heads=2, feed_forward=12, **changes)
    return Student(config, VOCABULARY, teacher_width).eval()


def batch_of(records: Sequence[PatientRecord]) -> StudentBatch:
    return collate(encode_records(records, VOCABULARY), np.arange(len(records)))


def answer(student: Student, *records: PatientRecord) -> StudentOutput:
    with torch.no_grad():
        return student(batch_of(records))


def assert_same(first: StudentOutput, second: StudentOutput) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_shapes() -> None:
    output = answer(build(), *RECORDS)
    assert output.logits.shape == (len(RECORDS), len(VOCABULARY.medications))
    assert output.representation.shape == (len(RECORDS), 2 * WIDTH)
    assert output.profile.shape == (len(RECORDS), WIDTH)


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_an_answer_does_not_depend_on_who_else_is_in_the_batch(index: int) -> None:
    student = build()
    together = answer(student, *RECORDS)
    assert_same(answer(student, RECORDS[index]), StudentOutput(*(part[index : index + 1] for part in together)))


def test_answers_follow_the_order_of_records() -> None:
    student = build()
    forwards, backwards = answer(student, *RECORDS), answer(student, *reversed(RECORDS))
    assert_same(forwards, StudentOutput(*(part.flip(0) for part in backwards)))


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_every_record_has_a_finite_answer(index: int) -> None:
    assert all(torch.isfinite(part).all() for part in answer(build(), RECORDS[index]))


def test_the_current_medications_are_never_read() -> None:
    student = build()
    for record in RECORDS:
        told = replace(record, current=replace(record.current, medications=("ATC:M0", "ATC:M5")))
        assert_same(answer(student, told), answer(student, record))


def test_the_order_of_codes_in_a_visit_does_not_matter() -> None:
    one = PatientRecord(PROFILE, (visit("012", "34", "125"),), visit("4567", "01"))
    other = PatientRecord(PROFILE, (visit("201", "43", "512"),), visit("7654", "10"))
    student = build()
    assert_same(answer(student, one), answer(student, other))


@pytest.mark.parametrize(
    "changed",
    [
        replace(RECORDS[1], current=visit("23456", "01234")),
        replace(RECORDS[1], current=visit("234567", "0123")),
        replace(RECORDS[1], history=RECORDS[1].history[1:]),
        replace(RECORDS[1], history=(visit("0", "1", "24"), RECORDS[1].history[1])),
        replace(RECORDS[1], profile={**PROFILE, "gender": "B"}),
    ],
)
def test_each_part_of_a_record_matters(changed: PatientRecord) -> None:
    student = build()
    assert not torch.allclose(answer(student, changed).logits, answer(student, RECORDS[1]).logits, atol=1e-5)


def test_equal_indices_of_two_kinds_are_two_embeddings() -> None:
    student = build()
    student.set_encoders["procedures"] = student.set_encoders["diagnoses"]
    first = [Packed.of(Ragged.of([[table_offsets(VOCABULARY)[kind] + len(SPECIAL)]])) for kind in KINDS[:2]]
    with torch.no_grad():
        assert not torch.allclose(
            student.encode_sets("diagnoses", first[0]), student.encode_sets("procedures", first[1])
        )


def test_without_profile_fields_the_profile_does_not_matter() -> None:
    student = build(profile_fields=())
    stranger = replace(RECORDS[1], profile={})
    assert_same(answer(student, RECORDS[1]), answer(student, stranger))


def test_only_the_chosen_profile_fields_matter() -> None:
    student = build(profile_fields=("race",))
    other_gender = replace(RECORDS[1], profile={**PROFILE, "gender": "B"})
    other_race = replace(RECORDS[1], profile={**PROFILE, "race": "B"})
    assert_same(answer(student, RECORDS[1]), answer(student, other_gender))
    assert not torch.allclose(answer(student, RECORDS[1]).logits, answer(student, other_race).logits, atol=1e-5)


def packed_labels(labels: list[list[int]]) -> Packed:
    return Packed.of(medication_sets(Ragged.of(labels), VOCABULARY))


def loss_of(student: Student, records: list[PatientRecord], states: torch.Tensor | None) -> torch.Tensor:
    labels = [[index % 6, (index + 2) % 6] for index in range(len(records))]
    return StudentLoss(student, student.config)(batch_of(records), multi_hot(labels, 6), packed_labels(labels), states)


@pytest.mark.parametrize("with_teacher", [True, False])
def test_the_loss_is_the_weighted_sum_of_its_parts(with_teacher: bool) -> None:
    student = build(3, distillation_weight=0.7, alignment_weight=0.3, alignment_temperature=0.5)
    states = torch.randn(len(RECORDS), 3)
    labels = [[index % 6, (index + 2) % 6] for index in range(len(RECORDS))]
    output = answer(student, *RECORDS)
    with torch.no_grad():
        encoded = student.encode_sets("medications", packed_labels(labels))
        expected = recommendation_loss(output.logits, multi_hot(labels, 6))
        expected += 0.3 * alignment_loss(output.profile, encoded, 0.5)
        if with_teacher:
            assert student.to_teacher is not None
            expected += 0.7 * distillation_loss(student.to_teacher(output.representation), states)
    actual = loss_of(student, RECORDS, states if with_teacher else None)
    torch.testing.assert_close(actual.detach(), expected)


def test_gradients_reach_every_parameter() -> None:
    student = build(3, dropout=0.0).train()
    loss_of(student, RECORDS, torch.randn(len(RECORDS), 3)).backward()
    idle = [name for name, weight in student.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    ("records", "changes"),
    [([RECORDS[0]] * 2, {}), ([RECORDS[4]] * 2, {}), (RECORDS, {"profile_fields": ()})],
    ids=["no procedures", "no codes", "no profile fields"],
)
def test_every_parameter_takes_part_in_every_step(records: list[PatientRecord], changes: dict[str, Any]) -> None:
    """Several workers average gradients; torch's DistributedDataParallel fails in the step after one in which a
    parameter had none."""
    student = build(3, dropout=0.0, **changes).train()
    loss_of(student, records, torch.randn(len(records), 3)).backward()
    assert [name for name, weight in student.named_parameters() if weight.grad is None] == []


def test_a_batch_of_one_can_be_trained() -> None:
    student = build(3).train()
    loss = loss_of(student, RECORDS[:1], torch.randn(1, 3))
    loss.backward()
    assert torch.isfinite(loss)


def test_a_sample_without_a_known_medication_can_be_trained() -> None:
    """Its set of current medications is empty, and still has a place in the alignment."""
    student = build(3).train()
    labels: list[list[int]] = [[0], []]
    loss = StudentLoss(student, student.config)(
        batch_of(RECORDS[:2]), multi_hot(labels, 6), packed_labels(labels), torch.randn(2, 3)
    )
    loss.backward()
    assert torch.isfinite(loss)


def test_seeded_answers_do_not_move() -> None:
    """As computed by the implementation that padded every set to the largest of its batch."""
    expected = [
        [-0.13475, -0.05515, -0.11294, -0.21451, -0.14013, -0.00534],
        [0.07082, -0.29331, -0.12222, -0.19941, -0.25347, 0.06481],
        [-0.18297, -0.09325, -0.02909, -0.36567, -0.30058, 0.01244],
        [-0.04363, -0.19847, -0.14825, -0.30507, -0.16007, 0.01911],
        [-0.17503, -0.0795, -0.14089, -0.35893, -0.19704, -0.03024],
    ]
    torch.testing.assert_close(answer(build(), *RECORDS).logits, torch.tensor(expected), atol=1e-5, rtol=0)


def test_training_can_fit_a_few_records() -> None:
    student = build(dropout=0.0).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    losses = []
    for _ in range(30):
        loss = loss_of(student, RECORDS, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]

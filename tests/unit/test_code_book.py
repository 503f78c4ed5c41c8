"""What the wide layer knows of codes: their categories, and the readings of their titles."""

from __future__ import annotations

import numpy as np
import pytest

from leader_platform.data.code_parents import parents
from leader_platform.data.records import PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.models.code_book import SLOTS, CodeBook, TitleReadings, principal_components, wide_inputs
from leader_platform.models.encoding import Ragged

SEEN, SIBLING, STRANGER = "ICD10CM:E119", "ICD10CM:E110", "ICD10CM:Z000"


def table(*names: str) -> dict[str, int]:
    return {name: index for index, name in enumerate((*SPECIAL, *names))}


VOCABULARY = Vocabulary(
    codes={
        "diagnoses": table(SEEN),
        "procedures": table("ICD9PCS:3961"),
        "medications": table("ATC:A10B", "ATC:C09A"),
    },
    profile={name: table() for name in PROFILE_FIELDS},
)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ICD10CM:E119", ["ICD10CM:E11*", "ICD10CM:E1*", "ICD10CM:E*"]),
        ("ICD10CM:I10", ["ICD10CM:I1*", "ICD10CM:I*"]),
        ("ICD9CM:4019", ["ICD9CM:401*", "ICD9CM:40*"]),
        ("ICD9CM:E8499", ["ICD9CM:E849*", "ICD9CM:E84*"]),
        ("ICD10PCS:0DTJ4ZZ", ["ICD10PCS:0DTJ*", "ICD10PCS:0DT*", "ICD10PCS:0D*"]),
        ("ATC:C09A", ["ATC:C09*", "ATC:C*"]),
        ("LOCAL:17", []),
    ],
)
def test_categories_are_the_coding_systems_levels(code: str, expected: list[str]) -> None:
    assert parents(code) == expected


def slots_of(lists: Ragged) -> list[set[int]]:
    return [set(part.tolist()) for part in np.split(lists.values, lists.starts[1:-1])]


def test_a_code_that_training_never_saw_is_known_by_its_category() -> None:
    book = CodeBook.of(VOCABULARY, None, 8)
    assert book.numbers(SEEN)[1:] == book.numbers(SIBLING)
    assert len(book.numbers(SIBLING)) == 3
    assert book.numbers(STRANGER) == []


def test_slots_tell_now_from_before_and_hold_no_current_medication() -> None:
    book = CodeBook.of(VOCABULARY, None, 8)
    past = Visit((SEEN,), ("ICD9PCS:3961",), ("ATC:A10B",))
    record = PatientRecord(
        history=(past, Visit((SEEN,), (), ("ATC:C09A",))), current=Visit((SIBLING,), (), ("ATC:C09A",))
    )
    inputs = wide_inputs([record], VOCABULARY, book)
    slots = dict(zip(SLOTS, slots_of(inputs.categories), strict=True))
    assert slots["current diagnoses"] == set(book.numbers(SIBLING))
    assert slots["current procedures"] == set()
    assert slots["past diagnoses"] == set(book.numbers(SEEN)), "each number once, however many visits have it"
    assert slots["past medications"] == {*book.numbers("ATC:A10B"), *book.numbers("ATC:C09A")}
    assert slots["last medications"] == set(book.numbers("ATC:C09A"))
    np.testing.assert_allclose(np.expm1(inputs.counts[0]), [1, 0, 1, 1, 2, 1], rtol=1e-6)


def test_readings_of_unseen_codes_are_placed_by_axes_of_the_seen() -> None:
    states = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    seen = list(range(30))
    reduced = principal_components(states, seen, 5)
    assert reduced.shape == (40, 5)
    np.testing.assert_allclose(reduced[seen].mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(reduced[seen], axis=1).mean() == pytest.approx(1)
    moved = states.copy()
    moved[30:] += 100
    np.testing.assert_allclose(principal_components(moved, seen, 5)[seen], reduced[seen], atol=1e-4)


def test_a_book_read_back_gives_the_same_inputs() -> None:
    states = np.arange(12, dtype=np.float32).reshape(3, 4) ** 2
    book = CodeBook.of(VOCABULARY, TitleReadings([SEEN, SIBLING, "ATC:A10B"], states), 2)
    again = CodeBook.from_table(VOCABULARY, book.to_table())
    assert (again.categories, again.rows) == (book.categories, book.rows)
    np.testing.assert_array_equal(again.states, book.states)
    record = PatientRecord(current=Visit((SIBLING, STRANGER)))
    assert wide_inputs([record], VOCABULARY, again).rows.values.tolist() == [book.rows[SIBLING]]


def test_a_book_without_readings_can_be_kept_too() -> None:
    book = CodeBook.of(VOCABULARY, None, 8)
    assert CodeBook.from_table(VOCABULARY, book.to_table()).rows == {}


def test_some_records_of_many_read_as_they_would_alone() -> None:
    book = CodeBook.of(VOCABULARY, TitleReadings([SEEN, SIBLING], np.eye(2, 4, dtype=np.float32)), 2)
    records = [PatientRecord(current=Visit((code,), ("ICD9PCS:3961",))) for code in (SEEN, SIBLING, STRANGER)]
    together = wide_inputs(records, VOCABULARY, book).take(np.array([2, 0]))
    alone = wide_inputs([records[2], records[0]], VOCABULARY, book)
    assert slots_of(together.categories) == slots_of(alone.categories)
    assert slots_of(together.rows) == slots_of(alone.rows)
    np.testing.assert_array_equal(together.counts, alone.counts)

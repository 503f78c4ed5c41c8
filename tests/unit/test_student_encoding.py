"""Records as flat arrays, and how their sets are packed into rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data.records import PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.models.encoding import ROW_WIDTH, Ragged, encode_records, medication_sets, pack

LISTS = st.lists(st.lists(st.integers(1, 99), max_size=2 * ROW_WIDTH), max_size=30)


def lists_of(ragged: Ragged) -> list[list[int]]:
    return [part.tolist() for part in np.split(ragged.values, ragged.starts[1:-1])] if len(ragged) else []


def table(*names: str) -> dict[str, int]:
    return {name: index for index, name in enumerate((*SPECIAL, *names))}


# Five diagnoses (with the two special entries) begin at 0, four procedures at 5, three medications at 9.
VOCABULARY = Vocabulary(
    codes={"diagnoses": table("D0", "D1", "D2"), "procedures": table("P0", "P1"), "medications": table("M0")},
    profile={name: table("A") for name in PROFILE_FIELDS},
)


def test_records_become_sets_by_record_and_kind() -> None:
    first = Visit(("D0", "D9", "D2"), (), ("M0", "M9"))
    records = [
        PatientRecord({"gender": "A"}, (first, Visit(("D9",), ("P1",))), Visit(("D1",), ("P0", "P1"), ("M0",))),
        PatientRecord(current=Visit(("D1",))),
    ]
    encoded = encode_records(records, VOCABULARY)
    assert lists_of(encoded.sets) == [[2, 4], [3], [8], [7, 8], [11], [3]]
    assert lists_of(encoded.visits) == [[0, 1], [2, 3], [4], [5], [], []]
    assert encoded.profile.tolist() == [[2, 1, 1, 1, 1, 1], [1] * 6]


def test_labels_are_rows_of_the_embedding_table() -> None:
    assert lists_of(medication_sets(Ragged.of([[0], []]), VOCABULARY)) == [[11], []]


def test_no_records_are_encoded_as_nothing() -> None:
    assert len(encode_records([], VOCABULARY)) == 0


@given(LISTS, st.data())
def test_taking_lists_is_indexing(lists: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9) if lists else st.just([]))
    taken = Ragged.of(lists).take(np.array(chosen, np.int64))
    assert lists_of(taken) == [lists[index] for index in chosen]
    assert taken.owners.tolist() == [place for place, index in enumerate(chosen) for _ in lists[index]]


@given(LISTS)
def test_packing_keeps_every_group_whole_in_one_row(lists: list[list[int]]) -> None:
    rows = pack(Ragged.of(lists))
    assert rows.num_groups == len(lists)
    for number, items in enumerate(lists):
        where = np.argwhere(rows.groups == number)
        assert rows.items[rows.groups == number].tolist() == items
        assert len(set(where[:, 0].tolist())) == (1 if items else 0)
    assert (rows.items[rows.groups == len(lists)] == 0).all()


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [([], (1, 1)), ([0], (1, 1)), ([3], (1, 3)), ([20, 12, 1], (2, 32)), ([20, 13, 12], (2, 32)), ([40, 1], (2, 40))],
)
def test_rows_are_no_wider_and_no_more_than_needed(sizes: list[int], shape: tuple[int, int]) -> None:
    assert pack(Ragged.of([[1] * size for size in sizes])).items.shape == shape

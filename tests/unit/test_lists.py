"""Columns of lists, against the plain way of making them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data import lists

LIMIT = 2**30
rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.integers(-3, 3), st.sampled_from([-LIMIT, LIMIT]), st.just(lists.NO_TIME)),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(rows)
def test_a_sequence_is_that_of_sorting_by_three_columns(table: list[tuple[int, int, int]]) -> None:
    groups, order, codes = (np.array([row[column] for row in table], np.int64) for column in range(3))
    sequence = lists.sequence_of(groups, order, codes)
    clipped = np.clip(order, -LIMIT, LIMIT)
    assert sequence.tolist() == np.lexsort((codes, clipped, groups)).tolist()


def test_what_does_not_fit_into_one_integer_is_sorted_all_the_same() -> None:
    groups, codes = np.array([2**33, 0, 2**33]), np.array([5, 1, 4])
    assert lists.sequence_of(groups, np.array([1, 1, 1]), codes).tolist() == [1, 2, 0]


@given(rows)
def test_distinct_lists_keep_the_first_of_each_value(table: list[tuple[int, int, int]]) -> None:
    table = sorted(table)
    values = pa.DictionaryArray.from_arrays(pa.array([row[2] for row in table], pa.int32()), pa.array(list("abcd")))
    found = lists.distinct_lists(np.array([row[0] for row in table], np.int64), values, 4)
    expected = [list(dict.fromkeys("abcd"[code] for group, _, code in table if group == number)) for number in range(4)]
    assert found.to_pylist() == expected


def test_rows_are_found_by_two_keys_together() -> None:
    known = pa.table({"subject_id": [1, 2, 2], "hadm_id": [7, 7, 8]})
    asked = pa.table({"subject_id": [2, 1, 1, 3, 2], "hadm_id": [8, 7, 8, 7, 7]})
    group, is_known = lists.group_of(asked, known, ["subject_id", "hadm_id"])
    assert is_known.tolist() == [True, True, False, False, True]
    assert group[is_known].tolist() == [2, 0, 1]


def test_nothing_is_found_among_nothing() -> None:
    nothing = pa.table({"subject_id": pa.array([], pa.int64())})
    assert not lists.group_of(pa.table({"subject_id": [1]}), nothing, ["subject_id"])[1].any()
    assert len(lists.group_of(nothing, nothing, ["subject_id"])[0]) == 0


def test_ranges_stand_one_behind_the_other() -> None:
    assert lists.ranges(np.array([5, 0, 9]), np.array([2, 3, 0])).tolist() == [5, 6, 0, 1, 2]


def test_values_are_taken_out_of_lists() -> None:
    numbers = pa.array([[1, 2], [], [3]])
    assert lists.keep_values(numbers, np.array([False, True, False])).to_pylist() == [[2], [], []]


def test_a_template_is_filled_for_every_row() -> None:
    filled = lists.fill("{a} and {b}.", a=pa.array(["x", "y"]), b=pa.array(["1", "2"]))
    assert filled.to_pylist() == ["x and 1.", "y and 2."]

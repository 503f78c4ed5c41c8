"""Blocks of CSV: cut between rows alone, nothing lost, quotations never cut through."""

from __future__ import annotations

import csv
import io
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data.sources.csv_blocks import OpenQuotationError, ordered_map, row_blocks

cells = st.text(alphabet='ab,"\n é', max_size=6)


def rows_of(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@given(st.lists(st.tuples(cells, cells), max_size=12), st.integers(1, 40), st.booleans())
def test_blocks_hold_whole_rows_and_all_of_them(rows: list[tuple[str, str]], block_bytes: int, ends: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode() if ends else text.getvalue().rstrip("\n").encode()
    blocks = list(row_blocks(io.BytesIO(data), block_bytes, 1000))
    assert b"".join(bytes(block.data) for block in blocks) == data
    assert [row for block in blocks for row in rows_of(bytes(block.data))] == rows_of(data)
    for before, block in pairwise(blocks):
        assert block.offset == before.offset + len(before.data)


def test_a_line_break_within_quotation_marks_does_not_end_a_row() -> None:
    blocks = [bytes(block.data) for block in row_blocks(io.BytesIO(b'a,b\n1,"x\ny"\n2,z\n'), 9, 100)]
    assert blocks == [b"a,b\n", b'1,"x\ny"\n2,z\n']


def test_an_open_quotation_tells_the_byte_at_which_its_row_begins() -> None:
    data = b"a,b\n1,x\n2," + b'"y\n' + b"3,z\n" * 50
    with pytest.raises(OpenQuotationError, match=r"^8$"):
        list(row_blocks(io.BytesIO(data), 16, 64))
    with pytest.raises(OpenQuotationError, match=r"^8$"):
        list(row_blocks(io.BytesIO(data), 16, 10_000))


def test_a_mapped_order_is_kept_and_few_items_are_under_way() -> None:
    under_way, most, lock = [0], [0], threading.Lock()

    def items() -> list[int]:
        for item in range(50):
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            yield item

    results = []
    for result in ordered_map(lambda item: item * item, items(), 3):
        with lock:
            under_way[0] -= 1
        results.append(result)
    assert results == [item * item for item in range(50)]
    assert most[0] <= 6


def test_an_error_in_a_thread_is_raised_in_its_turn() -> None:
    def invert(item: int) -> float:
        return 1 / item

    inverted = ordered_map(invert, [1, 2, 0, 4], 2)
    assert [next(inverted), next(inverted)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(inverted)

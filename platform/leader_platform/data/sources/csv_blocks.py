"""A stream of CSV cut into blocks of whole rows, so that several threads can parse one table."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_QUOTE, _LINE_END = b'"', b"\n"


class OpenQuotationError(ValueError):
    """A quotation that is not closed within the limit of a row; its argument is the byte at which the row begins."""


@dataclass(frozen=True)
class Block:
    """Whole rows of CSV, and the byte of the stream at which they begin."""

    data: memoryview
    offset: int


def row_blocks(stream: Any, block_bytes: int, most_bytes: int) -> Iterator[Block]:
    """The stream in blocks of about `block_bytes`, each cut behind a line end that stands outside quotation marks.

    Raises `OpenQuotationError` for a row of more than `most_bytes`, and where the stream ends within quotation marks.
    """
    rest, offset = b"", 0
    while True:
        data = bytearray(len(rest) + block_bytes)
        data[: len(rest)] = rest
        num_read = stream.readinto(memoryview(data)[len(rest) :])
        if not num_read:
            break
        size = len(rest) + num_read
        end = _end_of_rows(data, size)
        if end:
            yield Block(memoryview(data)[:end], offset)
            offset += end
        rest = bytes(memoryview(data)[end:size])
        if len(rest) > most_bytes:
            raise OpenQuotationError(offset)
    if rest.count(_QUOTE) % 2:
        raise OpenQuotationError(offset)
    if rest:
        yield Block(memoryview(rest), offset)


def _end_of_rows(data: bytearray, size: int) -> int:
    """Where the last whole row of the first `size` bytes ends, 0 if there is none.

    A quotation mark within quotation marks is doubled, so a line end stands outside them when the number of marks
    before it is even.
    """
    end = data.rfind(_LINE_END, 0, size) + 1
    num_quotes = data.count(_QUOTE, 0, end)
    while num_quotes % 2:
        earlier = data.rfind(_LINE_END, 0, data.rfind(_QUOTE, 0, end)) + 1
        num_quotes -= data.count(_QUOTE, earlier, end)
        end = earlier
    return end


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """`map` on several threads: the results in order, with at most two items a thread under way."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

"""Micro-batches: who is answered together, and what becomes of those whose batch fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from leader_serve.microbatch import MicroBatcher


class Doubling:
    """Doubles numbers, slowly enough that others arrive meanwhile; 13 is not for it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        time.sleep(0.02)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


def test_what_arrives_meanwhile_is_answered_together_up_to_a_size() -> None:
    compute = Doubling()

    async def ask() -> list[Sequence[int]]:
        batcher = MicroBatcher(compute, max_size=4)
        first = asyncio.create_task(batcher.ask([1]))
        await asyncio.sleep(0.01)
        rest = await asyncio.gather(*(batcher.ask(items) for items in ([2, 3], [4], [5, 6], [7, 8, 9, 10, 11], [])))
        return [await first, *rest]

    assert asyncio.run(ask()) == [[2], [4, 6], [8], [10, 12], [14, 16, 18, 20, 22], []]
    assert compute.batches == [[1], [2, 3, 4], [5, 6], [7, 8, 9, 10, 11], []]


def test_a_lone_request_does_not_wait() -> None:
    async def ask() -> float:
        began = time.monotonic()
        await MicroBatcher(lambda items: items, max_size=64).ask([1])
        return time.monotonic() - began

    assert asyncio.run(ask()) < 0.5


def test_a_failure_reaches_its_batch_and_nobody_after_it() -> None:
    async def ask() -> list[object]:
        batcher = MicroBatcher(Doubling(), max_size=2)
        some = [batcher.ask([number]) for number in (13, 1, 2, 3)]
        return [*await asyncio.gather(*some, return_exceptions=True), await batcher.ask([4])]

    *failed, third, fourth, later = asyncio.run(ask())
    assert [str(error) for error in failed] == ["13", "13"]
    assert (third, fourth, later) == ([4], [6], [8])


def test_who_gave_up_is_not_computed() -> None:
    compute = Doubling()

    async def ask() -> Sequence[int]:
        batcher = MicroBatcher(compute, max_size=4)
        first = asyncio.create_task(batcher.ask([1]))
        await asyncio.sleep(0.005)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await batcher.ask([2])
        third = asyncio.create_task(batcher.ask([3]))
        await first
        return await third

    assert asyncio.run(ask()) == [6]
    assert compute.batches == [[1], [3]]

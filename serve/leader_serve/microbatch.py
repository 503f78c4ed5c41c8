"""Requests that come while a model computes are answered together by its next pass.

Without a wait: batches grow with the load, and a lone request is not delayed. Serve's own `@serve.batch` has one queue
for a method, whoever's method it is: with two models in one process, one would be handed the other's patients (2.60).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class MicroBatcher(Generic[Item, Answer]):
    """Calls `compute` with the items of all who wait, at most `max_size` unless one caller alone has more.

    `compute` runs in a thread, one call at a time, so that the event loop is free for the next batch to gather and for
    health checks. What it raises reaches every caller whose items were in the batch.
    """

    def __init__(self, compute: Callable[[list[Item]], Sequence[Answer]], max_size: int) -> None:
        self._compute, self._max_size = compute, max_size
        self._waiting: deque[tuple[Sequence[Item], asyncio.Future[Sequence[Answer]]]] = deque()
        self._thread = ThreadPoolExecutor(1, "microbatch")
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, items: Sequence[Item]) -> Sequence[Answer]:
        """An answer for each item, in order."""
        answers: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, answers))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await answers

    async def _work(self) -> None:
        while batch := self._next():
            items = [item for some, _ in batch for item in some]
            try:
                computed = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, items)
            except BaseException as error:  # also a cancellation, or they would wait for ever
                for _, answers in batch:
                    if not answers.done():
                        answers.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            place = 0
            for some, answers in batch:
                if not answers.done():
                    answers.set_result(computed[place : place + len(some)])
                place += len(some)

    def _next(self) -> list[tuple[Sequence[Item], asyncio.Future[Sequence[Answer]]]]:
        """Who waited longest, as many as fit; those who gave up are left out."""
        batch: list[tuple[Sequence[Item], asyncio.Future[Sequence[Answer]]]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= self._max_size):
            items, answers = self._waiting.popleft()
            if not answers.done():
                batch.append((items, answers))
                size += len(items)
        return batch

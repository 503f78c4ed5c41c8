"""Reports from Ray's workers to this process, which a person watches: tasks, counts, and what training logs.

Ray Train and Ray Data hand results to processes of their own, block by block; a queue brings reports here at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from leader_jobs.placement import on_node
from leader_platform.progress import Mirror, Progress, SentProgress, Task, receive

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Count:
    """In a worker: counts a task of the process that made it, a batch at a time. It travels with a function's
    arguments."""

    queue: Any
    task_id: int

    def __call__(self, number: int) -> None:
        """`number` more are done."""
        _put(self.queue, {"task": self.task_id, "done": number})


@dataclass
class Reports:
    """This end of the queue. `queue` goes to the workers."""

    queue: Any
    tasks: dict[int, Task] = field(default_factory=dict)

    def count(self, task: Task) -> Count:
        """What workers count `task` with."""
        self.tasks[task.id] = task
        return Count(self.queue, task.id)


@contextmanager
def reports(progress: Progress, take: Callable[[dict[str, Any]], None] = lambda message: None) -> Iterator[Reports]:
    """A queue from workers to this process for the length of a block. Counts and tasks go to `progress`, any other
    message to `take`."""
    import ray
    from ray.util.queue import Queue

    # On this machine, without which nobody reads it: elsewhere it would be one more thing that can be lost.
    here = on_node(ray.get_runtime_context().get_node_id())
    opened = Reports(Queue(actor_options={"num_cpus": 0, **here}))
    ended = threading.Event()

    def follow(mirror: Mirror) -> None:
        over = False
        while not over:
            over = ended.wait(_LOOK_EVERY_S)  # before the last look, so that nothing is missed
            # By its size: an empty answer counts as a failed task, red in the dashboard.
            for message in opened.queue.get_nowait_batch(opened.queue.size()):
                if message.keys() == {"task", "done"}:
                    opened.tasks[message["task"]].advance(message["done"])
                elif not receive(message, progress, mirror):
                    take(message)

    with progress.mirror() as mirror:
        thread = threading.Thread(target=follow, args=(mirror,), daemon=True)
        thread.start()
        try:
            yield opened
        finally:
            ended.set()
            thread.join()
            opened.queue.shutdown()


@contextmanager
def counted(progress: Progress, name: str, total: int, unit: str) -> Iterator[Count]:
    """A task of this process that its workers count."""
    with progress.task(name, total, unit) as task:
        with reports(progress) as opened:
            yield opened.count(task)
        task.update(total)  # the last counts may come too late


def progress_to(queue: Any) -> Progress:
    """In a worker: what its tasks report to."""
    return SentProgress(lambda message: _put(queue, message))


def _put(queue: Any, message: dict[str, Any]) -> None:
    """Without waiting: progress must not slow down what it is about."""
    queue.actor.put_nowait.remote(message)

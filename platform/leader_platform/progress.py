"""How far a command has come: the one interface that steps report to, and its form as lines.

A step opens a task, counts in it, and logs sentences. `LineProgress` writes a line now and then, the terminal's form
lies with the command line, and `SentProgress` passes everything on to another process, where a `Mirror` shows it: from
a Ray worker to the stage, and, by marked lines in its log, from a Ray job to the command that follows it. No task is
silent: each form shows an open task repeatedly, even one that reports nothing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any

# Seconds between two lines of an open task: nothing is silent for ten.
LINE_EVERY_S = 8.0
# The same for a job's log, which a bar on a terminal is drawn from.
JOB_LINE_EVERY_S = 3.0
_SEND_EVERY_S = 1.0
_LOOK_EVERY_S = 0.5
# The rate is that of the last minute: what a step did before its model was loaded says nothing about when it ends.
_RATE_OVER_S = 60.0
# Ends the readable part of a line in a job's log; the tasks follow as JSON.
_MARK = "  #LEADER-PROGRESS "
_IDS = count(1)

Facts = dict[str, Any]


@dataclass(frozen=True)
class Status:
    """A task at one moment: what a line or a bar shows. `rate` is in units a second."""

    id: int
    name: str
    unit: str = ""
    done: float = 0
    total: float | None = None
    seconds: float = 0.0
    rate: float | None = None
    facts: Facts = field(default_factory=dict)
    ended: bool = False

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or not self.rate or self.done > self.total:
            return None
        return (self.total - self.done) / self.rate


_DEFAULTS: Facts = {"unit": "", "done": 0, "total": None, "seconds": 0.0, "rate": None, "facts": {}, "ended": False}


class Task:
    """A step that is under way. Any thread may report to it."""

    def __init__(self, name: str, total: float | None, unit: str, done: float, clock: Callable[[], float]) -> None:
        self.id, self.name, self.unit = next(_IDS), name, unit
        self.total, self.done = total, done
        self.facts: Facts = {}
        self.shown = False
        self._clock, self._started = clock, clock()
        self._ended: float | None = None
        self._marks = deque([(self._started, done)])
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Since the task was opened, or that it took."""
        return (self._clock() if self._ended is None else self._ended) - self._started

    def advance(self, number: float = 1, **facts: Any) -> None:
        """`number` more units are done."""
        self.update(self.done + number, **facts)

    def update(self, done: float | None = None, total: float | None = None, **facts: Any) -> None:
        """`done` units are done in all; `total` where it is known only now; `facts` are shown beside them."""
        with self._lock:
            self.total = self.total if total is None else total
            self.facts = self.facts | facts
            if done is not None and done != self.done:
                self.done = done
                self._mark(self._clock())

    def status(self) -> Status:
        with self._lock:
            return Status(
                self.id, self.name, self.unit, self.done, self.total, self.seconds, self._rate(), dict(self.facts)
            )

    def end(self) -> Status:
        self._ended = self._clock()
        return replace(self.status(), ended=True)

    def _mark(self, now: float) -> None:
        marks = self._marks
        if len(marks) > 1 and now - marks[-2][0] < 1.0:  # thousands of reports a second are one mark
            marks.pop()
        marks.append((now, self.done))
        # The first mark is the task's start: loading a model is not part of the rate at which it reads.
        if len(marks) == 3 and marks[0][0] == self._started:
            marks.popleft()
        while len(marks) > 2 and marks[1][0] < now - _RATE_OVER_S:
            marks.popleft()

    def _rate(self) -> float | None:
        if len(self._marks) < 2:
            return None
        (began, first), (last, done) = self._marks[0], self._marks[-1]
        # Results come in batches: a pause of the usual length is none, a longer one counts.
        usual = (last - began) / (len(self._marks) - 1)
        span = last - began + max(0.0, self._clock() - last - usual)
        return (done - first) / span if span > 0 and done > first else None


class _Mirrored(Task):
    """A task of another process, as last received; its seconds continue here."""

    def __init__(self, status: Status, clock: Callable[[], float]) -> None:
        super().__init__(status.name, status.total, status.unit, status.done, clock)
        self.receive(status)

    def receive(self, status: Status) -> None:
        with self._lock:
            self._received = replace(status, id=self.id)
            self._started = self._clock() - status.seconds

    def status(self) -> Status:
        with self._lock:
            return replace(self._received, seconds=self.seconds)


class Progress:
    """What steps report to. This one shows nothing, for callers that do not look.

    `ended` lists the tasks that were completed, in that order, with the seconds that each took.
    """

    tick_s: float | None = None  # how often `_tick` is called while a task is open

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.ended: list[Status] = []
        self._clock = clock
        self._open: list[Task] = []
        self._lock = threading.RLock()
        self._idle = threading.Event()

    def log(self, text: str) -> None:
        """A sentence that stays: what begins, what was found, what came of it."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "", done: float = 0) -> Iterator[Task]:
        """A step with `total` units to do, `done` of them already; without a total its seconds are counted.

        Tasks may be nested; what fails or is interrupted is closed without a line.
        """
        task = Task(name, total, unit, done, self._clock)
        self._add(task)
        try:
            yield task
        except BaseException:
            self._remove(task)
            raise
        self._remove(task, task.end())

    @contextmanager
    def mirror(self) -> Iterator[Mirror]:
        """For the tasks of another process; those still open at the end of the block are closed."""
        mirror = Mirror(self)
        try:
            yield mirror
        finally:
            mirror.show([])

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """For the length of a block that writes to the terminal by itself."""
        yield

    def statuses(self) -> list[Status]:
        """Of the open tasks, the outermost first."""
        with self._lock:
            return [task.status() for task in self._open]

    def _add(self, task: Task) -> None:
        with self._lock:
            self._open.append(task)
            if len(self._open) == 1 and self.tick_s is not None:
                self._idle = threading.Event()
                threading.Thread(target=self._watch, args=(self._idle, self.tick_s), daemon=True).start()
            self._opened(task)

    def _remove(self, task: Task, ended: Status | None = None) -> None:
        with self._lock:
            self._open.remove(task)
            if not self._open:
                self._idle.set()
            if ended is not None:
                self.ended.append(ended)
            self._closed(task, ended)

    def _watch(self, idle: threading.Event, tick_s: float) -> None:
        while not idle.wait(tick_s):
            with self._lock:
                if not idle.is_set():
                    self._tick()

    def _opened(self, task: Task) -> None:
        """A task was opened."""

    def _closed(self, task: Task, ended: Status | None) -> None:
        """A task was closed; `ended` is None where it was not completed."""

    def _tick(self) -> None:
        """Called every `tick_s` seconds while a task is open."""


SILENT = Progress()


class Mirror:
    """Shows the tasks of another process among those of `progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, _Mirrored] = {}

    def show(self, statuses: Iterable[Status]) -> None:
        """The tasks that are open there now, all of them, and those that have just ended."""
        progress, missing = self._progress, set(self._tasks)
        for status in statuses:
            missing.discard(status.id)
            if status.id not in self._tasks:
                self._tasks[status.id] = _Mirrored(status, progress._clock)
                progress._add(self._tasks[status.id])
            self._tasks[status.id].receive(status)
            if status.ended:
                task = self._tasks.pop(status.id)
                progress._remove(task, replace(status, id=task.id))
        for number in missing:
            progress._remove(self._tasks.pop(number))


class LineProgress(Progress):
    """Lines through `write`: what is logged, and an open task every `every_s` seconds in which nothing else was.

    With `marked`, each line about a task carries the tasks themselves for `read_mark`, whatever else is logged.
    """

    tick_s = _LOOK_EVERY_S

    def __init__(
        self,
        write: Callable[[str], None],
        every_s: float = LINE_EVERY_S,
        marked: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._write, self._every_s, self._marked = write, every_s, marked
        self._last = clock()

    def log(self, text: str) -> None:
        with self._lock:
            self._write(text)
            if not self._marked:
                self._last = self._clock()

    def _closed(self, task: Task, ended: Status | None) -> None:
        if ended is not None and (task.shown or ended.seconds >= self._every_s):
            self._show([*self.statuses(), ended])

    def _tick(self) -> None:
        if self._clock() - self._last >= self._every_s:
            for task in self._open:
                task.shown = True
            self._show(self.statuses())

    def _show(self, statuses: list[Status]) -> None:
        self._last = self._clock()
        self._write(_marked_line(statuses) if self._marked else line_of(statuses))


def job_progress() -> LineProgress:
    """A job's: marked lines in its log, each written in one piece."""

    def write(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    return LineProgress(write, JOB_LINE_EVERY_S, marked=True)


class SentProgress(Progress):
    """Passes tasks and sentences on through `send`, as what `receive` takes; in a Ray worker."""

    tick_s = _SEND_EVERY_S

    def __init__(self, send: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._send = send

    def log(self, text: str) -> None:
        self._send({"log": text})

    def _opened(self, task: Task) -> None:
        self._tick()

    def _closed(self, task: Task, ended: Status | None) -> None:
        self._send({"tasks": [_packed(status) for status in [*self.statuses(), *([ended] if ended else [])]]})

    def _tick(self) -> None:
        self._send({"tasks": [_packed(status) for status in self.statuses()]})


def receive(message: dict[str, Any], progress: Progress, mirror: Mirror) -> bool:
    """Show what a `SentProgress` sent; False for a message of another kind."""
    if message.keys() == {"log"}:
        progress.log(message["log"])
    elif message.keys() == {"tasks"}:
        mirror.show(Status(**packed) for packed in message["tasks"])
    else:
        return False
    return True


# --- lines of a job's log -------------------------------------------------------------------------------------------


def _packed(status: Status) -> dict[str, Any]:
    """Without what is at its default; with numbers as short as they are shown."""
    values = asdict(status)
    for name in ("done", "total", "seconds", "rate"):
        if isinstance(values[name], float):
            values[name] = float(f"{values[name]:.6g}")
    return {name: value for name, value in values.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}


def _marked_line(statuses: Sequence[Status]) -> str:
    payload = json.dumps([_packed(status) for status in statuses], default=str)
    return f"{line_of(_unpacked(payload)[0])}{_MARK}{payload}"


def _unpacked(payload: str) -> tuple[list[Status], str]:
    packed, end = json.JSONDecoder().raw_decode(payload)
    return [Status(**each) for each in packed], payload[end:]


def read_mark(line: str) -> tuple[str, list[Status]]:
    """What a line of a job's log says apart from tasks, and the tasks that it carries, none where it is not marked.

    Other programs write to the same log: what they left at the beginning or the end of a marked line is their text.
    """
    text, mark, payload = line.partition(_MARK)
    try:
        statuses, rest = _unpacked(payload) if mark else ([], "")
    except (ValueError, TypeError):  # not ours, or torn
        return line, []
    return (text.removesuffix(line_of(statuses)) + rest, statuses) if statuses else (line, [])


# --- as text --------------------------------------------------------------------------------------------------------


def line_of(statuses: Sequence[Status]) -> str:
    """The last task in full, after the counts of those around it: `folds 1 of 5 · LoRA: 40 of 600 steps, ...`."""
    *around, last = statuses
    counted = [f"{status.name} {_counts(status)}" for status in around if status.total is not None]
    return " ".join(" · ".join([*counted, f"{last.name}: {sentence(last)}"]).split())


def sentence(status: Status) -> str:
    """`120 of 590 samples, 14.2 samples/s, 33 s left, loss 0.41`; without a total, the seconds so far."""
    facts = [f"{name.replace('_', ' ')} {_number(value)}" for name, value in status.facts.items()]
    if status.ended:
        took = f"in {duration(status.seconds)}"
        return ", ".join([f"{_amount(status.done, status.unit)} {took}" if status.done else f"done {took}", *facts])
    parts = [_counts(status)] if status.done or status.total is not None else []
    if status.rate:
        parts.append(_speed(status.rate, status.unit))
    left = status.seconds_left
    parts.append(f"{duration(status.seconds)} so far" if left is None else f"{duration(left)} left")
    return ", ".join([*parts, *facts])


def duration(seconds: float) -> str:
    """`33 s`, `2 min 05 s`, `1 h 20 min`."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _counts(status: Status) -> str:
    if status.total is None or status.done > status.total:
        return _amount(status.done, status.unit)
    return f"{_amount(status.done, 'bytes' if status.unit == 'bytes' else '')} of {_amount(status.total, status.unit)}"


def _amount(number: float, unit: str) -> str:
    if unit == "bytes":
        return _bytes(number)
    return f"{number:,.0f} {unit}".rstrip()


def _speed(rate: float, unit: str) -> str:
    if unit == "bytes":
        return f"{_bytes(rate)}/s"
    unit = unit or "units"
    # A step that takes half a minute is 2 a minute, not 0.0333 a second.
    number, per = (rate, "s") if rate >= 0.2 else (60 * rate, "min")
    return f"{number:,.0f} {unit}/{per}" if number >= 100 else f"{number:.3g} {unit}/{per}"


def _bytes(number: float) -> str:
    for power, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= power:
            return f"{number / power:.1f} {name}"
    return f"{number:.0f} B"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

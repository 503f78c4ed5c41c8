"""Progress: rates, time left, lines now and then, and the same tasks in another process."""

from __future__ import annotations

import io
import json
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leader_cli.console import TerminalProgress
from leader_platform.errors import RunError
from leader_platform.progress import (
    LineProgress,
    Progress,
    SentProgress,
    Status,
    duration,
    line_of,
    read_mark,
    receive,
    sentence,
)
from leader_platform.ray_jobs import _Log


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lines:
    """A `LineProgress` with a clock of its own, what it wrote, and when."""

    def __init__(self, every_s: float = 8.0, marked: bool = False) -> None:
        self.clock = Clock()
        self.texts: list[str] = []
        self.times: list[float] = []
        self.progress = LineProgress(self._write, every_s, marked, self.clock)
        self.progress.tick_s = None  # the test ticks

    def _write(self, text: str) -> None:
        self.texts.append(text)
        self.times.append(self.clock.now)

    def wait(self, seconds: float) -> None:
        for _ in range(round(2 * seconds)):
            self.clock.now += 0.5
            self.progress._tick()


def test_a_line_has_count_rate_and_time_left() -> None:
    lines = Lines()
    with lines.progress.task("features", 590, "samples") as task:
        for _ in range(8):
            lines.wait(1.0)
            task.advance(10)
        lines.wait(0.5)
    assert lines.texts[0] == "features: 70 of 590 samples, 10 samples/s, 52 s left"


def test_what_reports_nothing_has_a_line_all_the_same() -> None:
    lines = Lines()
    with lines.progress.task("Starting the engine"):
        lines.wait(60)
    assert lines.texts[0] == "Starting the engine: 8 s so far"
    gaps = [later - earlier for earlier, later in zip([1000.0, *lines.times], lines.times, strict=False)]
    assert max(gaps) < 10
    assert len(lines.texts) <= 9, "lines now and then, not thousands"


def test_many_reports_are_few_lines() -> None:
    lines = Lines()
    with lines.progress.task("download", 1e9, "bytes") as task:
        for _ in range(600):
            task.advance(1e6)
            lines.wait(0.5)
    assert 30 <= len(lines.texts) <= 40
    assert lines.texts[-2].startswith("download: ")
    assert lines.texts[-2].endswith("2.0 MB/s, 3 min 24 s left")
    assert lines.texts[-1] == "download: 600.0 MB in 5 min 00 s"


def test_sentences_between_put_the_next_line_off() -> None:
    lines = Lines()
    with lines.progress.task("LoRA", 10, "steps"):
        for number in range(4):
            lines.wait(7)
            lines.progress.log(f"step {number}")
    assert [text for text in lines.texts if text.startswith("step")] == lines.texts[:4]


def test_the_rate_leaves_out_what_came_before_the_first_result() -> None:
    lines = Lines()
    with lines.progress.task("features", 1000, "samples") as task:
        lines.wait(100)  # an engine starts
        for _ in range(10):
            lines.wait(1)
            task.advance(5)
        status = task.status()
    assert status.rate == pytest.approx(5.0)
    assert status.seconds_left == pytest.approx(190)


def test_what_was_there_already_is_not_part_of_the_rate() -> None:
    lines = Lines()
    with lines.progress.task("features", 1000, "samples", done=900) as task:
        lines.wait(1)
        assert task.status().rate is None
        task.advance(2)
        assert task.status().rate == pytest.approx(2.0)


def test_the_rate_is_the_last_minutes_and_falls_when_nothing_comes() -> None:
    lines = Lines()
    with lines.progress.task("steps", 10_000, "steps") as task:
        for step in range(300):
            lines.wait(1)
            task.advance(10 if step < 200 else 1)
        assert task.status().rate == pytest.approx(1.0, rel=0.1)
        lines.wait(600)
        assert (task.status().rate or 1.0) < 0.2


def test_results_that_come_in_bursts_have_a_steady_rate() -> None:
    lines = Lines()
    rates = []
    with lines.progress.task("features", 10_000, "samples") as task:
        for burst in range(20):
            for _ in range(10):
                lines.wait(1)
                rates.append(task.status().rate if burst > 3 else 6.4)
            task.advance(64)
    assert rates == pytest.approx([6.4] * len(rates), rel=0.15)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status(1, "a"), "0 s so far"),
        (Status(1, "a", "samples", 0, 590), "0 of 590 samples, 0 s so far"),
        (Status(1, "a", "samples", 0, 0), "0 of 0 samples, 0 s so far"),
        (Status(1, "a", "samples", 7, 0, 3.0, 2.0), "7 samples, 2 samples/s, 3 s so far"),
        (Status(1, "a", "samples", 600, 590, 60.0, 10.0), "600 samples, 10 samples/s, 1 min 00 s so far"),
        (Status(1, "a", "samples", 590, 590, 60.0, 10.0), "590 of 590 samples, 10 samples/s, 0 s left"),
        (Status(1, "a", "steps", 2, 10, 60.0, 1 / 30), "2 of 10 steps, 2 steps/min, 4 min 00 s left"),
        (Status(1, "a", "rows", 12345, None, 5.0, 2469.0), "12,345 rows, 2,469 rows/s, 5 s so far"),
        (Status(1, "a", "bytes", 1.5e6, 3e9, 1.0, 1.5e6), "1.5 MB of 3.0 GB, 1.5 MB/s, 33 min 19 s left"),
        (Status(1, "a", "steps", 2, 4, 1.0, 2.0, {"loss": 0.31234567, "validation_prauc": 0.5}),
         "2 of 4 steps, 2 steps/s, 1 s left, loss 0.3123, validation prauc 0.5"),
        (Status(1, "a", "samples", 590, 590, 41.2, 14.0, ended=True), "590 samples in 41 s"),
        (Status(1, "a", seconds=12.0, ended=True), "done in 12 s"),
    ],
)  # fmt: skip
def test_sentences(status: Status, expected: str) -> None:
    assert sentence(status) == expected


def test_durations() -> None:
    assert [duration(s) for s in (-1, 0.4, 59.4, 59.6, 125, 3599.9, 4830)] == [
        "0 s", "0 s", "59 s", "1 min 00 s", "2 min 05 s", "1 h 00 min", "1 h 20 min",
    ]  # fmt: skip


def test_a_line_has_the_counts_of_the_tasks_around() -> None:
    lines = Lines()
    with lines.progress.task("leader evaluate"), lines.progress.task("folds", 5, "folds") as folds:
        folds.advance()
        with lines.progress.task("student", 30, "epochs"):
            lines.wait(8)
    assert lines.texts[0] == "folds 1 of 5 folds · student: 0 of 30 epochs, 8 s so far"


def test_the_time_that_each_task_took_is_kept() -> None:
    lines = Lines()
    with lines.progress.task("all"):
        with lines.progress.task("first"):
            lines.wait(2)
        with pytest.raises(RunError), lines.progress.task("failed"):
            raise RunError
        with lines.progress.task("second", 4) as second:
            lines.wait(3)
        lines.wait(1)
    took = {status.name: status.seconds for status in lines.progress.ended}
    assert took == {"first": 2.0, "second": 3.0, "all": 6.0}
    assert second.seconds == 3.0


def test_what_fails_has_no_line_of_its_end() -> None:
    lines = Lines()
    with suppress(KeyboardInterrupt), lines.progress.task("LoRA"):
        lines.wait(9)
        raise KeyboardInterrupt
    assert lines.texts == ["LoRA: 8 s so far"]
    assert lines.progress.statuses() == []


def test_tasks_report_from_threads_while_real_time_passes() -> None:
    texts: list[str] = []
    progress = LineProgress(texts.append, every_s=0.2)
    progress.tick_s = 0.05
    with progress.task("rows", 4000, "rows") as task:
        threads = [threading.Thread(target=lambda: [task.advance() for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.5)
    assert task.done == 4000
    assert len(texts) >= 2
    number = len(texts)
    time.sleep(0.3)
    assert len(texts) == number, "nothing is written when no task is open"


# --- through another process -----------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def _round_trip(sender: Lines, chunk: int = 7) -> tuple[list[str], list[list[Status]]]:
    """What a follower of the sender's log reads."""
    texts: list[str] = []
    tasks: list[list[Status]] = []
    log = _Log(texts.append, tasks.append)
    whole = "".join(f"{text}\n" for text in sender.texts)
    for start in range(0, len(whole), chunk):
        log.take(whole[start : start + chunk], start)
    log.close()
    return texts, tasks


def test_a_job_s_line_is_readable_and_carries_its_tasks() -> None:
    job = Lines(every_s=3.0, marked=True)
    with job.progress.task("folds", 5, "folds"), job.progress.task("Lesen – 読む", 590, "samples") as task:
        job.progress.log("Reading 590 samples")
        for _ in range(4):
            job.wait(1)
            task.advance(10, loss=0.25)
    readable = "folds 0 of 5 folds · Lesen – 読む: 20 of 590 samples, 10 samples/s, 57 s left, loss 0.25"
    assert job.texts[0] == "Reading 590 samples"
    assert job.texts[1].startswith(f"{readable}  #LEADER-PROGRESS [")
    texts, tasks = _round_trip(job)
    assert texts == ["Reading 590 samples"]
    assert [[status.name for status in each] for each in tasks] == [["folds", "Lesen – 読む"]] * 2 + [["folds"]]
    assert line_of(tasks[0]) == readable
    assert tasks[1][-1].ended


@given(
    NAMES,
    st.text(max_size=5),
    st.floats(0, 1e12),
    st.none() | st.integers(0, 10**9),
    st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.floats() | st.integers() | NAMES, max_size=3),
)
def test_any_task_survives_its_line(name: str, unit: str, done: float, total: int | None, facts: dict) -> None:
    job = Lines(every_s=3.0, marked=True)
    with job.progress.task(name, total, unit, done) as task:
        task.update(**{f"x_{key}": value for key, value in facts.items()})
        job.wait(3)
    line = job.texts[0]
    assert not set("\r\n") & set(line)
    rest, (status,) = read_mark(line)
    assert rest == ""
    assert (status.name, status.unit, status.total) == (name, unit, total)
    assert status.done == pytest.approx(done, rel=1e-5)
    assert json.dumps(list(status.facts.values())) == json.dumps(list(facts.values()))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "an ordinary line: 5 of 6",
        "what is #LEADER-PROGRESS of",
        "x  #LEADER-PROGRESS [",
        "x  #LEADER-PROGRESS []",
        'x  #LEADER-PROGRESS {"id": 1}',
        'x  #LEADER-PROGRESS [{"id": 1, "nonsense": 2}]',
        "x  #LEADER-PROGRESS [1, 2]",
    ],
)
def test_other_programs_lines_stay_as_they_are(line: str) -> None:
    assert read_mark(line) == (line, [])


def test_what_others_left_on_a_task_s_line_is_their_text() -> None:
    job = Lines(every_s=3.0, marked=True)
    with job.progress.task("LoRA", 10, "steps"):
        job.wait(3)
    rest, (status,) = read_mark(f"Loading weights:  50%{job.texts[0]}done")
    assert rest == "Loading weights:  50%done"
    assert status.name == "LoRA"


def test_the_follower_shows_a_job_s_tasks_as_its_own() -> None:
    job, here = Lines(every_s=3.0, marked=True), Lines()
    with here.progress.mirror() as mirror:
        log = _Log(here.progress.log, mirror.show)

        def pass_on() -> None:
            log.take("".join(f"{text}\n" for text in job.texts), 0)

        with job.progress.task("LoRA", 100, "steps") as task:
            for _ in range(30):
                job.wait(1)
                task.advance()
                here.clock.now += 1
                pass_on()
                here.progress._tick()
            here.wait(20)  # the job is silent; the follower is not
            assert [status.name for status in here.progress.statuses()] == ["LoRA"]
        pass_on()
        assert here.progress.statuses() == []
    assert here.texts[0].startswith("LoRA: 5 of 100 steps, 1 steps/s, 1 min 3")
    gaps = [later - earlier for earlier, later in zip([1000.0, *here.times], here.times, strict=False)]
    assert max(gaps) < 10
    assert here.texts[-1] == "LoRA: 30 steps in 30 s"
    assert [(status.name, status.seconds) for status in here.progress.ended] == [("LoRA", 30.0)]


def test_a_job_that_ends_at_once_leaves_no_task_open() -> None:
    job, here = Lines(every_s=3.0, marked=True), Lines()
    with suppress(RunError), job.progress.task("LoRA"):
        job.wait(4)
        raise RunError
    with here.progress.mirror() as mirror:
        mirror.show(read_mark(job.texts[0])[1])
        assert len(here.progress.statuses()) == 1
    assert here.progress.statuses() == []
    assert here.progress.ended == []


def test_a_worker_s_tasks_arrive() -> None:
    here, clock = Lines(), Clock()
    with here.progress.task("Tuning"), here.progress.mirror() as mirror:
        heard: list[bool] = []
        worker = SentProgress(lambda message: heard.append(receive(message, here.progress, mirror)), clock)
        worker.tick_s = None
        worker.log("A sentence")
        with worker.task("validation", 32, "samples") as task:
            task.advance(8)
            worker._tick()
            assert [status.name for status in here.progress.statuses()] == ["Tuning", "validation"]
            assert here.progress.statuses()[1].done == 8
            clock.now += 5
        assert [status.name for status in here.progress.statuses()] == ["Tuning"]
        assert not receive({"step": 5, "loss": 0.5}, here.progress, mirror)
    assert all(heard)
    assert here.texts == ["A sentence"]
    assert (here.progress.ended[0].name, here.progress.ended[0].seconds) == ("validation", 5.0)


# --- on a terminal ---------------------------------------------------------------------------------------------------


def test_a_terminal_has_bars_and_keeps_what_is_logged() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, soft_wrap=True, highlight=False)
    progress = TerminalProgress(console)
    with progress.task("leader train"), progress.task("LoRA", 10, "steps") as task:
        task.advance(4, loss=0.5)
        progress.log("validation PRAUC 0.5 [/red]")
        time.sleep(0.3)
        with progress.hidden():
            at = len(stream.getvalue())
            time.sleep(0.3)
            assert len(stream.getvalue()) == at, "what is printed meanwhile is not torn"
        time.sleep(0.3)
    drawn = stream.getvalue()
    assert "\x1b[1A" not in drawn[at:].split("LoRA")[0], "bars that come back leave alone what was printed"
    assert "4 of 10 steps" in drawn
    assert "leader train" in drawn
    assert "validation PRAUC 0.5 [/red]\n" in drawn.replace("\r", "")
    assert "\x1b[?25h" in drawn[-10:], "the cursor is shown again"


def test_the_silent_one_takes_everything() -> None:
    progress = Progress()
    progress.log("nobody hears it")
    with progress.task("a", 3) as task, progress.mirror() as mirror, progress.hidden():
        task.advance(5)
        mirror.show([Status(1, "b")])
    assert [status.name for status in progress.ended] == ["a"]

"""Running out of memory as vLLM does: its engine writes the cause to its log, and its parent knows only of the end."""

from __future__ import annotations

import sys
import time
from functools import partial

import pytest

from leader_jobs.engine_log import out_of_memory_lines
from leader_platform.errors import RunError
from leader_platform.models.memory import explain_out_of_memory

pytestmark = pytest.mark.slow


class Engine:
    """An actor that does not start, and writes why to its log alone."""

    def __init__(self, cause: str) -> None:
        print(f"(EngineCore pid=7) ERROR {cause}", file=sys.stderr, flush=True)
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")

    def started(self) -> None:
        pass


def start(cause: str) -> None:
    import ray

    read_log = partial(out_of_memory_lines, since=time.time())
    with explain_out_of_memory("Reading with the teacher", "lower it", "raise it", read_log):
        ray.get(ray.remote(num_cpus=0)(Engine).remote(cause).started.remote())


def test_the_cause_in_an_engines_log_becomes_a_sentence(ray_local: None) -> None:
    with pytest.raises(Exception, match="Engine core initialization failed") as failed:
        start("ValueError: the tokenizer is broken")
    assert not isinstance(failed.value, RunError)
    with pytest.raises(RunError, match=r"^Reading with the teacher ran out of memory; lower it\.$"):
        start("ValueError: No available memory for the cache blocks.")

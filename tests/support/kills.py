"""A Ray Train worker killed in the middle of its work."""

from __future__ import annotations

from collections.abc import Callable

import psutil


def kill_at(place: str) -> tuple[Callable[[str], None], list[int]]:
    """A `say` for a stage that kills its worker once, when a line of progress has `place` ("step 25"); and the process
    ids that it killed."""
    kills: list[int] = []

    def say(line: str) -> None:
        if f"{place} " in f"{line} " and not kills:
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    kills.append(process.pid)
                    process.kill()

    return say, kills

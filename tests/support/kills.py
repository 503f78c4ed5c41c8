"""A Ray Train worker killed in the middle of its work."""

from __future__ import annotations

import psutil

from leader_platform.progress import LineProgress, Progress


def kill_at(place: str) -> tuple[Progress, list[int]]:
    """A stage's progress that kills its worker once, when a line has `place` ("step 25"); and the process ids that it
    killed."""
    kills: list[int] = []

    def write(line: str) -> None:
        if f"{place} " in f"{line} " and not kills:
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    kills.append(process.pid)
                    process.kill()

    return LineProgress(write), kills

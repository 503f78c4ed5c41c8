"""The processes of a local cluster: which they are, and how they are ended without touching any other Ray's."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# Every process that the head starts inherits it; it finds those that have lost their parent, as HAProxy does.
MARKER = "LEADER_CLUSTER_TEMP_DIR"


def start_time(pid: int) -> float | None:
    """When the process began (Linux: clock ticks since boot), or None if there is none or it is a zombie.

    Ticks since boot do not move when the clock is set, so with the pid they name one process for good.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        # The second field, the name, may itself hold spaces and brackets.
        return (
            float(stat.read_text(errors="replace").rpartition(")")[2].split()[19])
            if stat.exists()
            else process.create_time()
        )
    except (psutil.NoSuchProcess, OSError):
        return None


def members(temp_dir: Path, head: int | None = None) -> list[psutil.Process]:
    """The cluster's living processes: descendants of the head, its session, and all that carry the cluster's mark.

    Never this process or one of its ancestors, so a command run from a job of the cluster survives its own clean-up.
    """
    import psutil

    own = psutil.Process()
    spared = {own.pid, *(process.pid for process in own.parents())}
    found: dict[int, psutil.Process] = {}
    if head is not None and psutil.pid_exists(head):
        process = psutil.Process(head)
        found = {each.pid: each for each in [process, *process.children(recursive=True)]}
    for process in psutil.process_iter():
        if process.pid not in found and _belongs(process, str(temp_dir), head):
            found[process.pid] = process
    return [process for pid, process in found.items() if pid not in spared and _alive(process)]


def ask(processes: Iterable[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Ask the processes to end (SIGTERM) and wait at most `patience_s` seconds; those that are left."""
    import psutil

    return _signal(processes, psutil.Process.terminate, patience_s)


def end(processes: Iterable[psutil.Process], patience_s: float) -> None:
    """Ask the processes to end, and force those that are left after `patience_s` seconds."""
    import psutil

    _signal(ask(processes, patience_s), psutil.Process.kill, patience_s)


def _signal(
    processes: Iterable[psutil.Process], send: Callable[[psutil.Process], None], patience_s: float
) -> list[psutil.Process]:
    import psutil

    remaining = [process for process in dict.fromkeys(processes) if _alive(process)]
    for process in remaining:
        # psutil compares start times first, so a recycled pid is never hit.
        with contextlib.suppress(psutil.Error):
            send(process)
    deadline = time.monotonic() + patience_s
    # Not psutil.wait_procs: it waits for zombies, whose parent may take its time.
    while remaining and time.monotonic() < deadline:
        time.sleep(0.05)
        remaining = [process for process in remaining if _alive(process)]
    return remaining


def _belongs(process: psutil.Process, temp_dir: str, head: int | None) -> bool:
    import psutil

    try:
        if head is not None and os.getsid(process.pid) == head:
            return True
        return process.environ().get(MARKER) == temp_dir
    except (psutil.Error, OSError):
        # Another user's process, or one that has just ended.
        return False


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        # A zombie holds nothing any more and waits only for its parent to notice.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

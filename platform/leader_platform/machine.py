"""How many cores and how much memory this process may use, which may be less than the machine has.

Slurm, `taskset`, a container or a cgroup each hand out a part of a machine. Most libraries count the affinity; few read
the quota of a cgroup, and none the one of a parent of the process's own group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")


@dataclass(frozen=True)
class Cgroups:
    """The control groups of a process, as the kernel shows them; arguments for tests."""

    root: Path = Path("/sys/fs/cgroup")
    of_process: Path = Path("/proc/self/cgroup")

    def folders(self, controller: str) -> Iterator[Path]:
        """The process's group and all its parents, of version 1 and of version 2, where a limit may be set.

        In a container the path of the group may be the host's, of which the container sees only the end: then its own
        limit lies in the root.
        """
        for line in self._lines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            hierarchies = (controllers, controller) if controllers else ("", "unified")
            group = PurePosixPath("/") if ".." in path else PurePosixPath(path)
            for name in hierarchies:
                for parent in (group, *group.parents):
                    yield self.root / name / parent.relative_to("/")

    def _lines(self) -> list[str]:
        try:
            lines = os.fsdecode(self.of_process.read_bytes()).splitlines()
            return [line for line in lines if line.count(":") >= 2]
        except OSError:  # not Linux
            return []

    def cores(self) -> float:
        """The smallest quota of CPU time, in cores; infinite where none is set."""
        quotas = [float("inf")]
        for folder in self.folders("cpu"):
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = (folder / "cpu.max").read_text().split()
                quotas.append(float(quota) / float(period))
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                quotas.append(float(quota) / float(period))
        return min(quota for quota in quotas if quota > 0)  # version 1 writes -1 for none

    def memory(self) -> float:
        """The smallest limit of memory in bytes; infinite where none is set."""
        limits = [float("inf")]
        for folder in self.folders("memory"):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):
                    limits.append(float((folder / name).read_text()))
        return min(limits)


@dataclass(frozen=True)
class Machine:
    """What decides how much of the machine the process may use."""

    affinity: int = field(default_factory=lambda: _affinity())
    memory: int = field(default_factory=lambda: _memory())
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cgroups: Cgroups = field(default_factory=Cgroups)

    def usable_cores(self) -> int:
        """Whole cores, at least one: the fewest that the affinity, Slurm and the quotas of the cgroups allow.

        Of a quota of 1.5 cores one is used: threads beyond a quota are stopped by turns, and the others wait for them.
        """
        allowed = [self.affinity, self.cgroups.cores()]
        for name in _SLURM:
            with suppress(KeyError, ValueError):
                allowed.append(int(self.environment[name]))
        return max(1, int(min(cores for cores in allowed if cores > 0)))

    def usable_memory(self) -> int:
        """Bytes: the machine's, or less where a cgroup allows less."""
        return int(min(self.memory, self.cgroups.memory()))

    def ray_memory(self, object_store_bytes: int) -> int | None:
        """What a local Ray may hand out beside its object store; None, for Ray to count, where no cgroup limits it."""
        return self.usable_memory() - object_store_bytes if self.usable_memory() < self.memory else None

    def threads(self) -> int | None:
        """The number of threads to set in a library that counts the affinity, where that allows more; else None."""
        return self.usable_cores() if self.usable_cores() < self.affinity else None


def usable_cores() -> int:
    """The cores that this process may use."""
    return Machine().usable_cores()


def usable_memory() -> int:
    """The bytes of memory that this process may use."""
    return Machine().usable_memory()


def limit_threads(machine: Machine | None = None, of_torch: bool = False) -> None:
    """Keep the thread pools of this process's libraries to the cores that it may use. Ray does so for its workers.

    Those of torch only where it is asked for, since that loads it.
    """
    threads = (machine or Machine()).threads()
    if threads is None or "OMP_NUM_THREADS" in os.environ:
        return
    import pyarrow
    from threadpoolctl import threadpool_limits

    pyarrow.set_cpu_count(threads)
    if of_torch:
        import torch

        torch.set_num_threads(threads)
    threadpool_limits(threads)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)

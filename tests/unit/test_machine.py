"""Cores and memory that a process may use: Slurm, the affinity, and cgroups of both versions, parents too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leader_platform import cluster, machine
from leader_platform.machine import Cgroups, Machine
from leader_platform.ray_environment import serve_environment

UNLIMITED_V1 = str(2**63 - 4096)


def cgroups(tmp_path: Path, of_process: str, files: dict[str, str]) -> Cgroups:
    """Control groups with these files below the root."""
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(of_process)
    return Cgroups(tmp_path / "root", tmp_path / "cgroup")


def a_machine(groups: Cgroups, affinity: int = 64, environment: dict[str, str] | None = None) -> Machine:
    return Machine(affinity, 256_000_000_000, environment or {}, groups)


V1 = "5:memory:/slurm/job\n4:cpu,cpuacct:/slurm/job\n3:cpuset:/other\n0::/\n"


@pytest.mark.parametrize(
    ("of_process", "files", "cores"),
    [
        pytest.param("0::/\n", {}, 64, id="no limit"),
        pytest.param("0::/\n", {"cpu.max": "max 100000"}, 64, id="v2, unlimited"),
        pytest.param("0::/\n", {"cpu.max": "400000 100000"}, 4, id="v2, the container's root"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 50000"}, 4, id="v2, a parent"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "800000 100000"}, 3, id="v2, its own"),
        pytest.param("0::/docker/1f\n", {"cpu.max": "200000 100000"}, 2, id="v2, a path of the host"),
        pytest.param("0::/../../job\n", {"cpu.max": "200000 100000"}, 2, id="v2, outside of the namespace"),
        pytest.param("0::/a:b c\n", {"a:b c/cpu.max": "200000 100000"}, 2, id="v2, a colon and a blank"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000"}, 1, id="a part of a core is none"),
        pytest.param("0::/\n", {"cpu.max": "20000 100000"}, 1, id="but one is the least"),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64, id="v1, unlimited"),
        pytest.param(
            V1,
            {"cpu,cpuacct/slurm/cpu.cfs_quota_us": "600000", "cpu,cpuacct/slurm/cpu.cfs_period_us": "100000"},
            6,
            id="v1, a parent",
        ),
        pytest.param(
            V1,
            {"cpu/slurm/job/cpu.cfs_quota_us": "50000", "cpu/slurm/job/cpu.cfs_period_us": "10000"},
            5,
            id="v1, its own, below the short name",
        ),
        pytest.param(
            V1,
            {"cpu/other/cpu.cfs_quota_us": "50000", "cpu/other/cpu.cfs_period_us": "10000"},
            64,
            id="v1, of another controller's group",
        ),
        pytest.param("1:cpu:/\n0::/a\n", {"unified/a/cpu.max": "200000 100000"}, 2, id="v2 beside v1"),
        pytest.param("not a line\n", {"cpu.max": "garbage"}, 64, id="not to be read"),
    ],
)
def test_cores_of_a_quota(tmp_path: Path, of_process: str, files: dict[str, str], cores: int) -> None:
    assert a_machine(cgroups(tmp_path, of_process, files)).usable_cores() == cores


@pytest.mark.parametrize(
    ("affinity", "environment", "cores"),
    [
        (8, {}, 8),
        (8, {"SLURM_CPUS_PER_TASK": "3"}, 3),
        (8, {"SLURM_CPUS_ON_NODE": "5"}, 5),
        (8, {"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "6"}, 2),
        (2, {"SLURM_CPUS_ON_NODE": "6"}, 2),  # `taskset` within a job
        (8, {"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "4(x2)"}, 8),
        (8, {"SLURM_CPUS_PER_TASK": "0"}, 8),
    ],
)
def test_cores_of_slurm_and_affinity(tmp_path: Path, affinity: int, environment: dict[str, str], cores: int) -> None:
    groups = Cgroups(tmp_path, tmp_path / "there is none")
    assert a_machine(groups, affinity, environment).usable_cores() == cores


@pytest.mark.parametrize(
    ("of_process", "files", "memory"),
    [
        pytest.param("0::/\n", {"memory.max": "max"}, 256_000_000_000, id="v2, unlimited"),
        pytest.param("0::/a/b\n", {"a/memory.max": "8000000000", "a/b/memory.max": "max"}, 8_000_000_000, id="v2"),
        pytest.param(
            V1,
            {"memory/slurm/memory.limit_in_bytes": "4000000000", "memory/memory.limit_in_bytes": UNLIMITED_V1},
            4_000_000_000,
            id="v1, a parent",
        ),
        pytest.param(V1, {"memory/memory.limit_in_bytes": UNLIMITED_V1}, 256_000_000_000, id="v1, unlimited"),
    ],
)
def test_memory_of_a_limit(tmp_path: Path, of_process: str, files: dict[str, str], memory: int) -> None:
    assert a_machine(cgroups(tmp_path, of_process, files)).usable_memory() == memory


def test_libraries_are_told_of_a_quota_alone(tmp_path: Path) -> None:
    """They count the affinity by themselves."""
    assert a_machine(cgroups(tmp_path, "0::/\n", {})).threads() is None
    assert a_machine(cgroups(tmp_path, "0::/\n", {"cpu.max": "200000 100000"})).threads() == 2


def test_thread_pools_keep_to_a_quota() -> None:
    code = (
        "import numpy, pyarrow, torch; from threadpoolctl import threadpool_info; from pathlib import Path\n"
        "from leader_platform.machine import Cgroups, Machine, limit_threads\n"
        "limit_threads(Machine(8, 1, {'SLURM_CPUS_PER_TASK': '3'}, Cgroups(of_process=Path('/none'))), True)\n"
        "print(pyarrow.cpu_count(), torch.get_num_threads(), {pool['num_threads'] for pool in threadpool_info()})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["3", "3", "{3}"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the affinity is Linux's")
def test_this_process_is_held_to_its_affinity() -> None:
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(own)})
        assert machine.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, own)


def test_a_cluster_is_sized_by_what_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster, "usable_memory", lambda: 4_000_000_000)
    assert cluster.default_object_store_bytes() == 600_000_000
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert serve_environment(tmp_path, lambda: 1)["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"

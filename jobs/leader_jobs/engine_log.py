"""What this job's workers wrote about running out of memory, on any node: vLLM's engine reports it nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from leader_jobs.placement import on_node
from leader_platform.models.memory import end_of_log, says_out_of_memory


def out_of_memory_lines(since: float) -> str:
    """The lines that say so in the logs that changed after `since` (seconds since 1970)."""
    import ray

    job = ray.get_runtime_context().get_job_id()
    search = ray.remote(num_cpus=0)(_search)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return "\n".join(ray.get([search.options(**on_node(node)).remote(job, since) for node in nodes]))


def _search(job: str, since: float) -> str:
    """In a worker, whose own log lies beside the others'."""
    return in_folder(Path(os.path.realpath("/proc/self/fd/1")).parent, job, since)


def in_folder(folder: Path, job: str, since: float) -> str:
    """The lines of a node's logs; Ray names a worker's files `worker-WORKER-JOB-PID.out` and `.err`."""
    files = [file for file in folder.glob(f"worker-*-{job}-*") if file.stat().st_mtime >= since]
    lines = [line for file in sorted(files) for line in end_of_log(file).splitlines()]
    return "\n".join(line for line in lines if says_out_of_memory(line))

"""Latency, throughput and memory of student and teacher as they are served, the teacher by vLLM and by transformers.

Usage: leader quickstart; python benchmarks/serve_models.py [--home workspace/quickstart] [--seconds 20]

Each model answers patients of the test split over HTTP, through ingress and router, at concurrency 1 and 16; no prompt
comes twice, since vLLM would remember it. Memory is the proportional set size of the replica and of the engine's
processes after that load; the student's counts one whole ingress replica that it computes in. Files are the weights on
disk. The paper's student is 25 to 30 times as fast as its 7B teacher, with 1/15 of the memory. The last line is JSON;
its ratios are of the vLLM teacher to the student, at concurrency 1.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import deployment as bench
from leader_platform.models.teacher import MERGED
from leader_serve.releases import APPLICATION, TEACHER_APPLICATIONS

CONCURRENCY = (1, 16)
NUM_REQUESTS = 1024  # more than the teacher answers in a measurement


@dataclass(frozen=True)
class Row:
    loads: dict[int, bench.Load]
    memory_mb: float


def memory_mb(pids: list[int]) -> float:
    """Proportional set size of processes and all that they started."""
    roots = [psutil.Process(pid) for pid in pids]
    family = {process.pid: process for root in roots for process in (root, *root.children(recursive=True))}
    return sum(process.memory_full_info().pss for process in family.values()) / 2**20


def measure(url: str, requests: list[dict[str, Any]], pids: list[int], seconds: float) -> Row:
    address = url + bench.PATH
    bench.wait_until_answering(address, requests[0])
    bench.wrk(address, bench.reordered(requests, 0), 4, 3)  # to warm up
    loads = {number: bench.wrk(address, bench.reordered(requests, number), number, seconds) for number in CONCURRENCY}
    return Row(loads, memory_mb(pids))


def files_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**20


def compare(home: Path, seconds: float) -> None:
    bench.require_wrk()
    data, run = bench.require_run(home)
    rows: dict[str, Row] = {}
    for engine in ("vllm", "transformers"):
        with bench.cluster() as deployment:
            settings = (f"--set=serve.teacher_engine={engine}", "--set=serve.max_teacher_waiting=64")
            deployment.leader(*settings, "serve", "deploy", "--run", run)
            student = deployment.replica_pids(APPLICATION, "Ingress")[:1]
            teachers = deployment.replica_pids(TEACHER_APPLICATIONS["stable"], "Teacher")
            for_teacher = bench.sample_requests(data, NUM_REQUESTS, model="teacher")
            rows[engine] = measure(deployment.url, for_teacher, teachers, seconds)
            if "student" not in rows:
                for_student = bench.sample_requests(data, NUM_REQUESTS, model="student")
                rows["student"] = measure(deployment.url, for_student, student, seconds)
    print(f"{'model':<14}{'at':>4}{'requests/s':>12}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'failed':>8}{'MB':>8}")
    for name, row in rows.items():
        for number, load in row.loads.items():
            print(
                f"{name:<14}{number:>4}{load.rps:>12.2f}{load.p50:>10.1f}{load.p95:>10.1f}{load.p99:>10.1f}"
                f"{load.failed:>8}{row.memory_mb:>8.0f}"
            )
    student, teacher = files_mb(Path(run, "student")), files_mb(Path(run, "teacher", MERGED))
    print(f"files: student {student:.1f} MB, teacher {teacher:.1f} MB")
    print(json.dumps(summary(rows, teacher / student)))


def summary(rows: dict[str, Row], files_ratio: float) -> dict[str, float]:
    student, vllm, transformers = (rows[name] for name in ("student", "vllm", "transformers"))
    return {
        "latency_ratio": round(vllm.loads[1].p50 / student.loads[1].p50, 1),
        "throughput_ratio_c16": round(student.loads[16].rps / vllm.loads[16].rps, 1),
        "memory_ratio": round(vllm.memory_mb / student.memory_mb, 1),
        "files_ratio": round(files_ratio, 1),
        "vllm_to_transformers_c1": round(vllm.loads[1].rps / transformers.loads[1].rps, 2),
        "vllm_to_transformers_c16": round(vllm.loads[16].rps / transformers.loads[16].rps, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("workspace/quickstart"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    arguments = parser.parse_args()
    compare(arguments.home, arguments.seconds)


if __name__ == "__main__":
    main()

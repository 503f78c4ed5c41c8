"""Time and memory of `leader data prepare` beside a plain pandas pipeline for the same output, as tables grow.

Usage: python benchmarks/etl.py [--parts 1 4 16] [--patients-per-part 8200] [--work DIR]

Synthetic MIMIC-IV tables of each number of parts are written once to the work folder; sixteen parts of the default size
have as many prescription rows as MIMIC-IV v3.1 in full, 20 million. Each run is a process of its own:
ours with a Ray of its own, of `--num-cpus` cores. Time is that of preparing, without the start of the interpreter, the
imports and, for ours, Ray: these are printed apart. Memory is the peak of the proportional set size of all processes
of a run. The outputs of both are compared, row by row, at the smallest size.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from leader_platform.machine import usable_cores


@dataclass(frozen=True)
class Measured:
    """One run: seconds of work, seconds before it (imports and, for ours, Ray), peak memory in GB."""

    seconds: float
    start_seconds: float
    peak_gb: float


def run_ours(raw: Path, out: Path, num_cpus: int) -> float:
    """Prepare with the platform; returns seconds."""
    from leader_jobs.prepare import PrepareArguments, prepare
    from leader_platform.config import LeaderConfig
    from leader_platform.progress import SILENT
    from leader_platform.ray_session import ray_session

    with ray_session(num_cpus=num_cpus):
        began = time.perf_counter()
        prepare(PrepareArguments("mimic4", str(raw), str(out)), LeaderConfig(), SILENT)
        return time.perf_counter() - began


def run_pandas(raw: Path, out: Path, num_cpus: int) -> float:
    """Prepare with pandas; returns seconds."""
    import etl_pandas

    began = time.perf_counter()
    etl_pandas.prepare(raw, out)
    return time.perf_counter() - began


RUNS = {"ours": run_ours, "pandas": run_pandas}


def measure(name: str, raw: Path, out: Path, num_cpus: int) -> Measured:
    """Run one pipeline in a process of its own and watch its memory."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--run", name, str(raw), str(out), "--num-cpus", str(num_cpus)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(1)  # reading it costs a tenth of a second of a core
    whole = time.perf_counter() - began
    output, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{name} failed on {raw}:\n{errors[-3000:]}")
    seconds = float(output.splitlines()[-1])
    return Measured(seconds, whole - seconds, peak / 1e9)


def memory(pid: int) -> int:
    """Proportional set size of a process and all its descendants, in bytes: what is shared counts once."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


def same_output(ours: Path, pandas: Path) -> int:
    """Compare the samples of both, every column, and their counts; returns the number of samples."""
    import pyarrow.parquet as pq

    number = 0
    for split in ("train", "validation", "test"):
        first = pq.read_table(ours / "samples" / split).sort_by("sample_id")
        second = pq.read_table(pandas / f"{split}.parquet").sort_by("sample_id")
        for column in first.column_names:
            if first[column].to_pylist() != second[column].to_pylist():
                sys.exit(f"The two outputs differ in {split}.{column}.")
        number += len(first)
    counted, recounted = (json.loads((folder / "manifest.json").read_text()) for folder in (ours, pandas))
    counted["flow"] = list(counted["flow"].values())[: len(recounted["flow"])]
    counted["coverage"] = {name: counted["coverage"][name] for name in recounted["coverage"]}
    for name in ("flow", "coverage", "distinct_codes", "mean_codes_per_visit", "inputs"):
        if counted[name] != recounted[name]:
            sys.exit(f"The two outputs differ in their counts of {name}: {counted[name]} and {recounted[name]}.")
    return number


def tables_of(work: Path, parts: int, patients_per_part: int) -> tuple[Path, int]:
    """Raw tables of that many parts, written unless they are there; their folder and number of prescription rows."""
    from leader_platform.data.synthetic import write_raw

    folder = work / f"raw-{parts}x{patients_per_part}"
    counts = work / f"{folder.name}.json"
    if not counts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        counts.write_text(json.dumps(asdict(write_raw("mimic4", folder, parts * patients_per_part, seed=1))))
    return folder, json.loads(counts.read_text())["prescriptions"]


def compare(work: Path, parts: list[int], patients_per_part: int, num_cpus: int) -> None:
    """Run both pipelines at every size and print a table; its last line is JSON."""
    found: dict[int, dict[str, Measured]] = {}
    print(f"{'parts':>5} {'rows':>12} {'':>8} {'seconds':>8} {'rows/s':>10} {'start s':>8} {'peak GB':>8}", flush=True)
    rows = 0
    for number in parts:
        raw, rows = tables_of(work, number, patients_per_part)
        outs = {name: work / f"out-{name}" for name in RUNS}
        found[number] = {name: measure(name, raw, outs[name], num_cpus) for name in RUNS}
        for name, one in found[number].items():
            speed = f"{rows / one.seconds:>10,.0f} {one.start_seconds:>8.1f} {one.peak_gb:>8.2f}"
            print(f"{number:>5} {rows:>12,} {name:>8} {one.seconds:>8.1f} {speed}", flush=True)
        if number == parts[0]:
            print(
                f"      {same_output(outs['ours'], outs['pandas']):,} samples and their counts are the same in both",
                flush=True,
            )
    small, large = found[parts[0]], found[parts[-1]]
    ours, pandas = large["ours"], large["pandas"]
    figures = {
        "ratio_to_pandas": pandas.seconds / ours.seconds,
        "growth": ours.seconds / (small["ours"].seconds * parts[-1] / parts[0]),
        "peak_gb": ours.peak_gb,
        "rows": rows,
        "pandas_growth": pandas.seconds / (small["pandas"].seconds * parts[-1] / parts[0]),
        "pandas_peak_gb": pandas.peak_gb,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--patients-per-part", type=int, default=8200)
    parser.add_argument("--work", type=Path, help="Folder to keep the raw tables in [a temporary one].")
    parser.add_argument("--num-cpus", type=int, default=min(2, usable_cores()))
    parser.add_argument("--run", nargs=3, metavar=("NAME", "RAW", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, raw, out = arguments.run
        print(RUNS[name](Path(raw), Path(out), arguments.num_cpus))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        compare(work, sorted(arguments.parts), arguments.patients_per_part, arguments.num_cpus)


if __name__ == "__main__":
    main()

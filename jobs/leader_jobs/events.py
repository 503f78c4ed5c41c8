"""Raw tables as files of events: streamed once, sorted by kind and by shard of patients, for later stages to read.

events/<kind>/shard-00003/batch-000017.parquet     a patient's whole history is in one shard
events/<kind>/batch-000017.parquet                 titles, which belong to no patient
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.data import mimic4
from leader_platform.data.drugs import DrugMap
from leader_platform.data.raw import RawTable, sha256

PATIENT_TABLES = ("patients", "admissions", "diagnoses", "procedures", "medications")
TITLE_TABLES = ("diagnosis_titles", "procedure_titles")


def write_events(
    tables: dict[str, RawTable], drugs: DrugMap, config: LeaderConfig, directory: str
) -> tuple[int, dict[str, str]]:
    """Stream every table into Parquet files of events, one folder a kind and shard of patients.

    Returns the number of shards and each raw file's SHA-256.
    """
    import ray

    num_shards = _num_shards(tables, config.data.shard_rows)

    def read(batch: Any) -> Iterator[dict[str, Any]]:
        kind = str(batch["kind"][0])
        for number, raw in enumerate(tables[kind].batches()):
            _write_event_batch(mimic4.events(kind, raw, drugs.atc), kind, number, num_shards, directory)
        yield {"uri": [tables[kind].uri], "sha256": [sha256(tables[kind].uri)]}

    kinds = ray.data.from_items([{"kind": kind} for kind in tables], override_num_blocks=len(tables))
    rows = kinds.map_batches(read, batch_size=1).take_all()
    return num_shards, {row["uri"].rsplit("/", 1)[-1]: row["sha256"] for row in rows}


def _num_shards(tables: dict[str, RawTable], shard_rows: int) -> int:
    """Enough shards for about `shard_rows` raw rows each, guessed from file sizes (a prescription row takes about 35
    bytes compressed and 150 plain in MIMIC-IV)."""
    num_rows = 0.0
    for kind in ("medications", "diagnoses"):
        file_system, path = storage.filesystem(tables[kind].uri)
        num_rows += file_system.get_file_info(path).size / (35 if path.endswith(".gz") else 150)
    return max(1, round(num_rows / shard_rows))


def _write_event_batch(events: pa.Table, kind: str, number: int, num_shards: int, directory: str) -> None:
    if kind in TITLE_TABLES:
        storage.write_parquet(storage.join(directory, kind, f"batch-{number:06d}.parquet"), events)
        return
    subjects = events["subject_id"]
    shards = pc.subtract(subjects, pc.multiply(pc.divide(subjects, num_shards), num_shards))
    for shard in pc.unique(shards).to_pylist():
        part = events.filter(pc.equal(shards, shard))
        storage.write_parquet(storage.join(directory, kind, f"shard-{shard:05d}", f"batch-{number:06d}.parquet"), part)


def read_events(directory: str, kind: str, shard: int) -> pa.Table:
    parts = storage.list_files(storage.join(directory, kind, f"shard-{shard:05d}"), ".parquet")
    return pa.concat_tables([mimic4.no_events(kind), *(storage.read_parquet(part) for part in parts)])


def read_titles(directory: str) -> Iterator[pa.Table]:
    """Tables of code and title, one at a time."""
    for kind in TITLE_TABLES:
        for part in storage.list_files(storage.join(directory, kind), ".parquet"):
            yield storage.read_parquet(part)

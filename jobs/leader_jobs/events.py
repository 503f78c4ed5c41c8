"""Raw tables as files of events: streamed once, sorted by kind and by shard of patients, for later stages to read.

events/<kind>/shard-00003.arrow     a patient's whole history is in one shard
events/<kind>.arrow                 titles, which belong to no patient
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from leader_jobs.tasks import on_each
from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.data.drugs import DrugMap
from leader_platform.data.events import EVENT_SCHEMAS, PATIENT_TABLES, Source
from leader_platform.data.prescriptions import MAPPED_SCHEMA, map_prescriptions
from leader_platform.data.raw import RawTable, sha256
from leader_platform.data.tallies import Tally, plain, tally_of

# Of the raw rows of these tables a shard holds `shard_rows`.
_LARGE_TABLES = ("medications", "diagnoses")
_PACKED_ROW_BYTES, _PLAIN_ROW_BYTES = 35, 150  # of a prescription in MIMIC-IV
SCHEMAS = {**EVENT_SCHEMAS, "medications": MAPPED_SCHEMA}


@dataclass(frozen=True)
class Events:
    """Where events were written, and what was seen on the way."""

    directory: str
    num_shards: int
    checksums: dict[str, str]
    tally: Counter

    def read(self, kind: str, shard: int) -> pa.Table:
        """A shard's events of `kind`, none where the raw table has none for its patients."""
        return _read(_part(self.directory, kind, shard), SCHEMAS[kind])

    def read_titles(self, kind: str) -> pa.Table:
        return _read(_titles(self.directory, kind), SCHEMAS[kind])


def write_events(
    source: Source, tables: Mapping[str, RawTable], drugs: DrugMap, config: LeaderConfig, directory: str
) -> Events:
    """Stream every table into files of events, one a kind and shard of patients; each table by one task."""
    num_shards = _num_shards(tables, config.data.shard_rows)

    def read(kind: str) -> dict[str, Any]:
        tally = _write_table(source, kind, tables[kind], drugs, num_shards, directory)
        return {"uri": tables[kind].uri, "sha256": sha256(tables[kind].uri), "tally": plain(tally)}

    largest_first = sorted(tables, key=lambda kind: kind not in _LARGE_TABLES)
    answers = on_each(read, largest_first)
    checksums = {answer["uri"].rsplit("/", 1)[-1]: answer["sha256"] for answer in answers}
    tally = sum((tally_of(answer["tally"]) for answer in answers), Counter())
    return Events(directory, num_shards, dict(sorted(checksums.items())), tally)


def _num_shards(tables: Mapping[str, RawTable], shard_rows: int) -> int:
    """Enough shards for about `shard_rows` raw rows each, guessed from file sizes."""
    num_rows = 0.0
    for kind in _LARGE_TABLES:
        file_system, path = storage.filesystem(tables[kind].uri)
        row_bytes = _PACKED_ROW_BYTES if path.endswith(".gz") else _PLAIN_ROW_BYTES
        num_rows += file_system.get_file_info(path).size / row_bytes
    return max(1, round(num_rows / shard_rows))


def _part(directory: str, kind: str, shard: int) -> str:
    return storage.join(directory, kind, f"shard-{shard:05d}.arrow")


def _titles(directory: str, kind: str) -> str:
    return storage.join(directory, f"{kind}.arrow")


def _write_table(source: Source, kind: str, table: RawTable, drugs: DrugMap, num_shards: int, directory: str) -> Tally:
    lookup = cache(drugs.lookup)  # a hospital's few thousand names come again in every block

    def read(raw: pa.Table) -> tuple[pa.Table, Tally]:
        events, left_out = source.read(kind, raw)
        if kind != "medications":
            return events, left_out
        mapped, counted = map_prescriptions(events, lookup)
        return mapped, left_out + counted

    tally: Tally = Counter()
    with ExitStack() as stack:
        writers: dict[str, pa.RecordBatchWriter] = {}
        for events, counted in table.map(read):
            tally.update(counted)
            for uri, part in _parts(events, kind, num_shards, directory):
                if uri not in writers:
                    writers[uri] = stack.enter_context(storage.table_writer(uri, SCHEMAS[kind]))
                writers[uri].write_table(part)
    return tally


def _parts(events: pa.Table, kind: str, num_shards: int, directory: str) -> Iterator[tuple[str, pa.Table]]:
    """The events by the file that they belong in."""
    if kind not in PATIENT_TABLES:
        yield _titles(directory, kind), events
        return
    shards = events["subject_id"].to_numpy() % num_shards
    events = events.take(pa.array(np.argsort(shards, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(shards, minlength=num_shards)).tolist()
    for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if end > start:
            yield _part(directory, kind, shard), events.slice(start, end - start)


def _read(uri: str, schema: pa.Schema) -> pa.Table:
    return storage.read_stream(uri) if storage.exists(uri) else schema.empty_table()

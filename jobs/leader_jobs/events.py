"""Raw tables as files of events: streamed once, sorted by kind and by shard of patients, for later stages to read.

events/<kind>/shard-00003.arrow     a patient's whole history is in one shard
events/<kind>.arrow                 titles, which belong to no patient
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from leader_jobs.reports import Count, reports
from leader_jobs.tasks import on_each
from leader_platform import storage
from leader_platform.config import LeaderConfig
from leader_platform.data.drugs import DrugMap
from leader_platform.data.prescriptions import MAPPED_SCHEMA, map_prescriptions
from leader_platform.data.sources.events import EVENT_SCHEMAS, PATIENT_TABLES, Source
from leader_platform.data.sources.raw import RawTable
from leader_platform.data.tallies import Tally, plain, tally_of
from leader_platform.errors import UserError
from leader_platform.progress import Progress

# Of the raw rows of these tables a shard holds `shard_rows`. Bytes a row, packed and plain, in MIMIC-IV.
_ROW_BYTES = {"medications": (35.0, 150.0), "diagnoses": (5.4, 28.6)}
_MAX_SHARDS = 500  # a task keeps a file open for each, and a process may open a thousand
_MIN_PART_ROWS = 2000  # rows a shard and write on average, or files would be all headers
SCHEMAS = {**EVENT_SCHEMAS, "medications": MAPPED_SCHEMA}


@dataclass(frozen=True)
class Events:
    """Where events were written, and what was seen on the way."""

    directory: str
    num_shards: int
    written: frozenset[str]
    checksums: dict[str, str]
    tally: Tally

    def read(self, kind: str, shard: int) -> pa.Table:
        """A shard's events of `kind`, none where the raw table has none for its patients."""
        return self._read(_part(self.directory, kind, shard), kind)

    def read_titles(self, kind: str) -> pa.Table:
        return self._read(_titles(self.directory, kind), kind)

    def _read(self, uri: str, kind: str) -> pa.Table:
        if uri not in self.written:
            return SCHEMAS[kind].empty_table()
        if not storage.exists(uri):
            raise UserError(
                f"{uri} was written by one node and is not there for another; --out must be shared storage."
            )
        return storage.read_stream(uri)


def write_events(
    source: Source,
    tables: Mapping[str, RawTable],
    drugs: DrugMap,
    config: LeaderConfig,
    directory: str,
    out: str,
    progress: Progress,
) -> Events:
    """Stream every table into files of events in `directory`, one a kind and shard of patients; each table by one task.

    `out` is what the directory will become part of, for a user to be told. Raises the `UserError` of a faulty table.
    """
    num_shards = _num_shards(tables, config.data.shard_rows)

    def read(kind: str) -> dict[str, Any]:
        blocks = tables[kind].map(_reader(source, kind, drugs))
        written, tally = _write_table(kind, _counted(blocks, count), num_shards, directory)
        uri = tables[kind].uri
        return {"uri": uri, "sha256": storage.sha256(uri), "written": written, "tally": plain(tally)}

    largest_first = sorted(tables, key=lambda kind: kind not in _ROW_BYTES)
    with (
        progress.task("Reading tables", len(tables), "tables") as reading,
        progress.task("events", unit="rows") as rows,
        reports(progress) as channel,
    ):
        count = channel.count(rows)
        answers = on_each(read, largest_first, out, reading)
    checksums = {answer["uri"].rsplit("/", 1)[-1]: answer["sha256"] for answer in answers}
    return Events(
        directory,
        num_shards,
        frozenset(uri for answer in answers for uri in answer["written"]),
        dict(sorted(checksums.items())),
        sum((tally_of(answer["tally"]) for answer in answers), Counter()),
    )


def _num_shards(tables: Mapping[str, RawTable], shard_rows: int) -> int:
    """Enough shards for about `shard_rows` raw rows each, guessed from file sizes."""
    num_rows = 0.0
    for kind, (packed, unpacked) in _ROW_BYTES.items():
        file_system, path = storage.filesystem(tables[kind].uri)
        num_rows += file_system.get_file_info(path).size / (packed if path.lower().endswith(".gz") else unpacked)
    return min(_MAX_SHARDS, max(1, round(num_rows / shard_rows)))


def _part(directory: str, kind: str, shard: int) -> str:
    return storage.join(directory, kind, f"shard-{shard:05d}.arrow")


def _titles(directory: str, kind: str) -> str:
    return storage.join(directory, f"{kind}.arrow")


def _reader(source: Source, kind: str, drugs: DrugMap) -> Callable[[pa.Table], tuple[pa.Table, Tally]]:
    """A function from a block of the raw table of `kind` to its events and what was counted."""
    lookup = cache(drugs.lookup)  # a hospital's few thousand names come again in every block

    def read(raw: pa.Table) -> tuple[pa.Table, Tally]:
        events, left_out = source.read(kind, raw)
        if kind != "medications":
            return events, left_out
        mapped, counted = map_prescriptions(events, lookup)
        return mapped, left_out + counted

    return read


def _counted(blocks: Iterable[tuple[pa.Table, Tally]], count: Count) -> Iterator[tuple[pa.Table, Tally]]:
    for events, tally in blocks:
        count(len(events))
        yield events, tally


def _write_table(
    kind: str, blocks: Iterable[tuple[pa.Table, Tally]], num_shards: int, directory: str
) -> tuple[list[str], Tally]:
    """Write blocks of events by shard; returns the files and what was counted."""
    tally: Tally = Counter()
    with ExitStack() as stack:
        writers: dict[str, pa.RecordBatchWriter] = {}
        for events in _gathered(blocks, tally, _MIN_PART_ROWS * num_shards):
            for uri, part in _parts(events, kind, num_shards, directory):
                if uri not in writers:
                    writers[uri] = stack.enter_context(storage.table_writer(uri, SCHEMAS[kind]))
                writers[uri].write_table(part)
    return sorted(writers), tally


def _gathered(blocks: Iterable[tuple[pa.Table, Tally]], tally: Tally, num_rows: int) -> Iterator[pa.Table]:
    """The blocks' events in tables of at least `num_rows`; adds up their tallies on the way."""
    waiting: list[pa.Table] = []
    for events, counted in blocks:
        tally.update(counted)
        waiting.append(events)
        if sum(map(len, waiting)) >= num_rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _parts(events: pa.Table, kind: str, num_shards: int, directory: str) -> Iterator[tuple[str, pa.Table]]:
    """The events by the file that they belong in."""
    if kind not in PATIENT_TABLES:
        yield _titles(directory, kind), events
        return
    shards = events["subject_id"].to_numpy() % num_shards
    events = events.unify_dictionaries().take(pa.array(np.argsort(shards, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(shards, minlength=num_shards)).tolist()
    for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if end > start:
            yield _part(directory, kind, shard), events.slice(start, end - start)

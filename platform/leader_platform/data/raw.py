"""Raw tables as PhysioNet ships them: found, checked, and streamed as Arrow tables. The only reader of CSV."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pacsv

from leader_platform import storage
from leader_platform.errors import UserError

BLOCK_BYTES = 16 << 20  # of uncompressed CSV a batch; with it a reader's memory stays bounded


@dataclass(frozen=True)
class TableSpec:
    """A raw table: its file's name without ending, and the columns that are read, with their types."""

    name: str
    columns: dict[str, pa.DataType]
    required: bool = True


@dataclass(frozen=True)
class RawTable:
    """A table that was found and whose header was checked."""

    spec: TableSpec
    uri: str

    def batches(self) -> Iterator[pa.Table]:
        """The table's rows, block by block. `UserError` when the file is damaged or a value has the wrong type."""
        names = list(self.spec.columns)
        options = pacsv.ConvertOptions(
            column_types=self.spec.columns, include_columns=names, strings_can_be_null=True, null_values=[""]
        )
        file_system, path = storage.filesystem(self.uri)
        try:
            with file_system.open_input_stream(path, compression=_compression(self.uri)) as stream:
                reader = pacsv.open_csv(
                    stream,
                    read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
                    parse_options=pacsv.ParseOptions(newlines_in_values=True),
                    convert_options=options,
                )
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, OSError, EOFError) as error:
            raise UserError(_fault(self.uri, str(error))) from None


def sha256(uri: str) -> str:
    """The checksum of a file as it lies there (of the compressed bytes, as PhysioNet publishes it)."""
    file_system, path = storage.filesystem(uri)
    digest = hashlib.sha256()
    with file_system.open_input_stream(path, compression=None) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_table(directory: str, spec: TableSpec) -> RawTable | None:
    """Find `spec` as `.csv.gz` or `.csv` and check its header; None when it is not required and not there.

    Raises `UserError` naming the table when it is missing or empty, and the columns when some are missing.
    """
    found = [
        uri for ending in (".csv.gz", ".csv") if storage.exists(uri := storage.join(directory, spec.name + ending))
    ]
    if not found:
        if spec.required:
            raise UserError(
                f"Table {spec.name}.csv.gz (or .csv) is not in {directory}; point --raw at the folder with it."
            )
        return None
    table = RawTable(spec, found[0])
    header, has_rows = _first_lines(table.uri)
    if not header:
        raise UserError(f"Table {table.uri} is empty; fetch it again.")
    missing = [column for column in spec.columns if column not in header]
    if missing:
        raise UserError(
            f"Table {table.uri} has no column {', '.join(missing)} (it has {', '.join(header)}); "
            "check that it is the unchanged table of the data set that --source names."
        )
    if not has_rows and spec.required:
        raise UserError(f"Table {table.uri} has a header but no rows; fetch it again.")
    return table


def _first_lines(uri: str) -> tuple[list[str], bool]:
    """The header's columns and whether a row follows, from the first bytes of the file."""
    file_system, path = storage.filesystem(uri)
    try:
        with file_system.open_input_stream(path, compression=_compression(uri)) as stream:
            text = stream.read(64 << 10).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri} cannot be read ({_one_line(error)}); fetch it again and check its SHA-256.") from None
    lines = text.splitlines()
    return (next(csv.reader(lines[:1]), []) if lines else []), any(line.strip() for line in lines[1:])


def _compression(uri: str) -> str | None:
    return "gzip" if uri.endswith(".gz") else None


def _fault(uri: str, reason: str) -> str:
    """What is wrong with a table's content, without the row itself, which is a patient's."""
    if "conversion error" in reason:
        return f"{uri} has a value of the wrong type ({reason}); check that it is the unchanged table of the data set."
    reason = " ".join(reason.split(": ")[:2]) if "Expected" in reason else reason
    return f"{uri} is damaged or cut short ({' '.join(reason.split())[:200]}); fetch it again and check its SHA-256."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

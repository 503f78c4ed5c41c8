"""Raw tables as PhysioNet ships them: found, checked, and streamed as Arrow tables. The only reader of CSV."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.csv as pacsv
from isal import igzip, isal_zlib

from leader_platform import storage
from leader_platform.data.sources.csv_blocks import Block, OpenQuotationError, ordered_map, row_blocks
from leader_platform.errors import UserError

# Of plain CSV a block, and the longest row. At most four blocks are under way, so these bound a reader's memory.
BLOCK_BYTES = 4 << 20
MAX_ROW_BYTES = 8 << 20
NUM_THREADS = 2  # parse, while a third unpacks; more would wait for it
_HEADER_BYTES = 64 << 10

_UNCHANGED = "check that it is the unchanged table of the data set that --source names"
_FETCH = "fetch it again and check its SHA-256"
_TYPE_NAMES = {"int64": "a whole number", "int32": "a whole number", "timestamp[ms]": "a date or time"}
# What pyarrow says of a value and of a row. It counts rows from 1, the header.
_VALUE_FAULT = re.compile(
    r"column #(?P<column>\d+): Row #(?P<row>\d+): CSV conversion error to (?P<type>[^:]+): "
    r"invalid (?:value '(?P<value>.*)'|UTF8 data)",
    re.DOTALL,
)
_ROW_FAULT = re.compile(r"Row #(?P<row>\d+): Expected (?P<expected>\d+) columns, got (?P<found>\d+)")
# The stub of isal calls its exception an instance.
_UNREADABLE = (pa.ArrowInvalid, OSError, EOFError, cast(type[Exception], isal_zlib.error))

Result = TypeVar("Result")


@dataclass(frozen=True)
class TableSpec:
    """A raw table: its file's name without ending, and the columns that are read, in lower case, with their types.

    An optional column that is not there is read as nulls. The case of names in the data does not matter.
    """

    name: str
    columns: Mapping[str, pa.DataType]
    required: bool = True
    optional_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawTable:
    """A table that was found and whose header was checked: where it is, and all its columns in lower case."""

    spec: TableSpec
    uri: str
    header: tuple[str, ...]

    def batches(self) -> Iterator[pa.Table]:
        """The rows, block by block, with the columns of the spec; raises as `map` does."""
        return self.map(lambda rows: rows)

    def map(self, function: Callable[[pa.Table], Result]) -> Iterator[Result]:
        """`function` of the rows, block by block and in order. Several threads parse and compute; one unpacks.

        Raises `UserError` when the file is damaged, or a value or row is wrong, naming its line.
        """
        return ordered_map(lambda block: function(self._parse(block)), self._blocks(), NUM_THREADS)

    def _blocks(self) -> Iterator[Block]:
        try:
            with _opened(self.uri) as stream:
                yield from row_blocks(stream, BLOCK_BYTES, MAX_ROW_BYTES)
        except OpenQuotationError as error:
            raise UserError(
                f"{self.uri}, line {self._line_at(error.args[0])}: a row of more than {MAX_ROW_BYTES >> 20} MB, "
                f'or a quotation mark (") that is never closed; {_FETCH}.'
            ) from None
        except _UNREADABLE as error:
            raise UserError(
                f"{self.uri} is damaged, cut short or out of reach ({_one_line(error)}); {_FETCH}."
            ) from None

    def _line_at(self, offset: int) -> int:
        """The number, from 1, of the line that begins at a byte of the unpacked file; counted only when asked for,
        since counting lines takes longer than cutting blocks."""
        line = 1
        with _opened(self.uri) as stream:
            while offset and (data := stream.read(min(offset, BLOCK_BYTES))):
                line += data.count(b"\n")
                offset -= len(data)
        return line

    def _parse(self, block: Block) -> pa.Table:
        is_first = block.offset == 0
        # One block is one piece for pyarrow, parsed by this thread: only so it knows the lines of faults.
        read = pacsv.ReadOptions(
            block_size=len(block.data) + 1, use_threads=False, column_names=self.header, skip_rows=int(is_first)
        )
        parse = pacsv.ParseOptions(newlines_in_values=True)
        convert = pacsv.ConvertOptions(
            column_types=self.spec.columns,
            include_columns=list(self.spec.columns),
            include_missing_columns=True,
            strings_can_be_null=True,
            null_values=[""],
        )
        try:
            return pacsv.read_csv(pa.BufferReader(pa.py_buffer(block.data)), read, parse, convert)
        except pa.ArrowInvalid as error:
            raise UserError(_fault(self, str(error), self._line_at(block.offset))) from None


def open_tables(directory: str, specs: Mapping[str, TableSpec]) -> dict[str, RawTable]:
    """Each spec's table in `directory`, as `.csv.gz` or `.csv`, its header checked; optional ones may be absent.

    Raises `UserError` naming the table that is missing, empty or there twice, or the columns that are missing or twice.
    """
    try:
        files = storage.list_files(directory)
    except OSError as error:
        raise UserError(
            f"{directory} cannot be listed ({_one_line(error)}); point --raw at the folder with the tables."
        ) from None
    found = {kind: _find(spec, directory, files) for kind, spec in specs.items()}
    return {kind: _with_header(specs[kind], uri) for kind, uri in found.items() if uri}


def _find(spec: TableSpec, directory: str, files: list[str]) -> str | None:
    """The file of a table; which of two is the right one, nothing tells, so neither is taken."""
    names = {f"{spec.name}{ending}".lower() for ending in (".csv.gz", ".csv")}
    found = [uri for uri in files if uri.rsplit("/", 1)[-1].lower() in names]
    if len(found) > 1:
        raise UserError(f"Table {spec.name} is there twice, as {' and as '.join(found)}; leave only one of them there.")
    if not found and spec.required:
        raise UserError(f"Table {spec.name}.csv.gz (or .csv) is not in {directory}; point --raw at the folder with it.")
    return found[0] if found else None


def _with_header(spec: TableSpec, uri: str) -> RawTable:
    names, has_rows = _first_lines(uri)
    if not names:
        raise UserError(f"Table {uri} is empty; fetch it again.")
    header = tuple(name.strip().lower() for name in names)
    missing = [name for name in spec.columns if name not in header and name not in spec.optional_columns]
    if missing:
        raise UserError(f"Table {uri} has no column {', '.join(missing)}; {_UNCHANGED}.")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise UserError(f"Table {uri} has more than one column {', '.join(repeated)}; {_UNCHANGED}.")
    if not has_rows:
        raise UserError(f"Table {uri} has a header but no rows; fetch it again.")
    return RawTable(spec, uri, header)


def _first_lines(uri: str) -> tuple[list[str], bool]:
    """The header's columns and whether a row follows, from the first bytes of the file."""
    try:
        with _opened(uri) as stream:
            text = stream.read(_HEADER_BYTES).decode("utf-8-sig", errors="replace")
    except _UNREADABLE as error:
        raise UserError(f"{uri} cannot be read ({_one_line(error)}); {_FETCH}.") from None
    lines = text.splitlines()
    return (next(csv.reader(lines[:1]), []) if lines else []), any(line.strip() for line in lines[1:])


@contextmanager
def _opened(uri: str) -> Iterator[Any]:
    """The file's bytes, unpacked: by isal, since gzip is what a packed table waits for and zlib takes twice as long."""
    file_system, path = storage.filesystem(uri)
    with file_system.open_input_stream(path, compression=None) as stream:
        if not uri.lower().endswith(".gz"):
            yield stream
            return
        with igzip.IGzipFile(fileobj=stream) as unpacked:
            yield unpacked


def _fault(table: RawTable, reason: str, first_line: int) -> str:
    """What is wrong with a block of rows, by what pyarrow says; of a patient's row only the value at fault."""
    if match := _VALUE_FAULT.search(reason):
        line = first_line + int(match["row"]) - 1
        place = f"{table.uri}, line {line}, column {table.header[int(match['column'])]}"
        if match["value"] is None:
            return f"{place}: the text is not UTF-8; {_UNCHANGED}."
        kind = _TYPE_NAMES[match["type"]]
        return f"{place}: {_one_line(match['value'], 40)!r} is not {kind}; {_UNCHANGED}."
    if match := _ROW_FAULT.search(reason):
        line = first_line + int(match["row"]) - 1
        return f"{table.uri}, line {line}: {match['found']} values, but {match['expected']} columns; {_FETCH}."
    return f"{table.uri}, from line {first_line}: {_one_line(reason)}; {_FETCH}."


def _one_line(text: object, length: int = 200) -> str:
    return " ".join(str(text).split())[:length]

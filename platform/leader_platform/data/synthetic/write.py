"""The synthetic cohort written as the raw tables of MIMIC-III or MIMIC-IV.

The data are made up: they carry no patient of any hospital, and what is learned from them says nothing about medicine.
They let every step run, at any size, where MIMIC itself may not be used. `docs/SYNTHETIC.md` states the model.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from leader_platform import storage
from leader_platform.data.synthetic.blocks import MAX_PATIENTS, PATIENTS_PER_BLOCK, draw_block
from leader_platform.data.synthetic.columns import to_bytes
from leader_platform.data.synthetic.mimic3 import Mimic3
from leader_platform.data.synthetic.mimic4 import Mimic4
from leader_platform.data.synthetic.parameters import load_parameters
from leader_platform.errors import UserError

SCHEMAS: dict[str, type[Mimic3] | type[Mimic4]] = {"mimic3": Mimic3, "mimic4": Mimic4}


@dataclass(frozen=True)
class SyntheticCounts:
    """Rows written to each table."""

    patients: int
    admissions: int
    diagnoses: int
    procedures: int
    prescriptions: int


def write_raw(
    schema: Literal["mimic3", "mimic4"],
    out: Path,
    num_patients: int,
    seed: int,
    on_progress: Callable[[int], None] = lambda num_written: None,
) -> SyntheticCounts:
    """Writes the seven raw tables of `num_patients` made-up patients as `.csv.gz`, those of MIMIC-IV into `out/hosp`.

    Memory does not grow with `num_patients`. Equal arguments give equal tables (and equal bytes, under one build of
    zlib), and the rows of the first patients do not depend on how many follow. `out` appears complete or not at all;
    it may exist if it is an empty folder. `on_progress` is told the number of patients written so far.

    Raises:
        UserError: `num_patients` or `seed` is out of range, `out` exists and is not an empty folder, or a full disk.
    """
    if not 1 <= num_patients <= MAX_PATIENTS:
        raise UserError(f"Cannot write {num_patients} synthetic patients; ask for 1 to {MAX_PATIENTS}.")
    if seed < 0:
        raise UserError(f"The seed {seed} is negative; choose 0 or a larger whole number.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; remove it or choose another place.")
    with storage.room_for(str(out)), storage.staged_directory(storage.absolute(str(out))) as staging:
        return _write_tables(schema, Path(staging), num_patients, seed, on_progress)


def _write_tables(
    schema: str, staging: Path, num_patients: int, seed: int, on_progress: Callable[[int], None]
) -> SyntheticCounts:
    parameters = load_parameters()
    form = SCHEMAS[schema](parameters)
    (staging / form.folder).mkdir(exist_ok=True)
    with ExitStack() as stack:
        sinks = {
            name: stack.enter_context(_open_table(staging / form.folder / f"{name}.csv.gz", header))
            for name, header in form.headers.items()
        }
        num_rows = dict.fromkeys(sinks, 0)

        def write(tables: dict[str, pa.Array]) -> None:
            for name, lines in tables.items():
                sinks[name].write(to_bytes(lines))
                num_rows[name] += len(lines)

        write(form.title_lines())
        for start in range(0, num_patients, PATIENTS_PER_BLOCK):
            block = draw_block(parameters, seed, start // PATIENTS_PER_BLOCK, form.uses_icd10)
            write(form.lines(block.first(num_patients - start)))
            on_progress(min(start + PATIENTS_PER_BLOCK, num_patients))
    counted = ("patients", "admissions", "diagnoses_icd", "procedures_icd", "prescriptions")
    rows = {name.lower(): count for name, count in num_rows.items()}
    return SyntheticCounts(*(rows[name] for name in counted))


@contextlib.contextmanager
def _open_table(path: Path, header: str) -> Iterator[gzip.GzipFile]:
    """A table to write lines to, its header written. No file name or time goes into the gzip header."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
        packed.write(f"{header}\n".encode())
        yield packed

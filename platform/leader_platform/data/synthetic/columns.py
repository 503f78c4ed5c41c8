"""Columns of text and lines of CSV, whole tables at a time. Null is an empty field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.data.synthetic.arrays import Bools, Ints, Times


def quoted(text: str) -> str:
    """As MIMIC-III writes text."""
    assert '"' not in text
    return f'"{text}"' if text else ""


def quoted_where_needed(text: str) -> str:
    """As MIMIC-IV writes text."""
    return quoted(text) if "," in text else text


def pick(values: Sequence[str] | pa.Array, places: Ints) -> pa.Array:
    """The value at each place."""
    return pa.array(values, pa.string()).take(pa.array(places))


def numbers(values: Ints | Bools) -> pa.Array:
    return pa.array(values.astype(np.int64)).cast(pa.string())


def times(values: Times) -> pa.Array:
    """`2138-07-17 19:04:00`."""
    return pa.array(values.astype("M8[s]")).cast(pa.string())


def dates(values: Times) -> pa.Array:
    """`2138-07-17`."""
    return pa.array(values.astype("M8[D]")).cast(pa.string())


def join(*columns: pa.Array | str, by: str = ",") -> pa.Array:
    """One text a row; a `str` is the same in all rows."""
    return pc.binary_join_element_wise(*columns, by, null_handling="replace")


def to_bytes(lines: pa.Array) -> bytes:
    """The lines, each with its end."""
    ended = join(lines, "\n", by="")
    whole = pa.ListArray.from_arrays(pa.array([0, len(ended)], pa.int32()), ended)
    return pc.binary_join(whole, "")[0].as_buffer().to_pybytes()

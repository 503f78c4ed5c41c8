"""Prescription rows as the ATC codes of what was prescribed, with an account of what has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.data.drugs import Mapping

Lookup = Callable[[str | None, str | None, str | None], Mapping | None]
_KEYS = ("drug", "ndc", "gsn")
_MAX_NAME = 200  # characters of an unmapped name that are told

MAPPED_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("hadm_id", pa.int64()),
        ("started_at", pa.timestamp("ms")),
        ("atc", pa.dictionary(pa.int32(), pa.string())),
    ]
)


def map_prescriptions(rows: pa.Table, lookup: Lookup) -> tuple[pa.Table, Counter]:
    """The rows of `MAPPED_SCHEMA` that `lookup` (drug name, NDC, GSN) knows, with codes such as `ATC:C09AA05`.

    The tally counts rows, mapped rows by the key that mapped them, and unmapped rows by drug name.
    """
    combinations, which = _distinct_rows(rows.select(_KEYS))
    found = [lookup(row["drug"], row["ndc"], row["gsn"]) for row in combinations.to_pylist()]
    counts = np.bincount(which, minlength=len(found)).tolist()
    tally: Counter = Counter({("prescription rows",): len(rows)})
    for mapping, name, count in zip(found, combinations["drug"].to_pylist(), counts, strict=True):
        key = ("unmapped", (name or "(no name)")[:_MAX_NAME]) if mapping is None else ("mapped by", mapping.by)
        tally[key] += count
    index, codes = pd.factorize(np.array([mapping and f"ATC:{mapping.code}" for mapping in found], object))
    row_index = index.astype(np.int32)[which]
    is_mapped = row_index >= 0  # `factorize` gives None the place -1
    kept = rows.drop_columns(list(_KEYS)).filter(pa.array(is_mapped))
    atc = pa.DictionaryArray.from_arrays(pa.array(row_index[is_mapped]), pa.array(codes, pa.string()))
    return kept.append_column("atc", atc).cast(MAPPED_SCHEMA), tally


def _distinct_rows(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """The table's distinct rows, and for each of its rows the number of the distinct one that it equals."""
    combined = np.zeros(len(table), np.int64)
    for column in map(_encoded, table.columns):
        combined = combined * (len(column.dictionary) + 1) + pc.fill_null(column.indices, -1).to_numpy() + 1
    which, _ = pd.factorize(combined)
    first = np.flatnonzero(~pd.Series(which).duplicated())
    return table.take(pa.array(first)), which


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.DictionaryArray) else whole.dictionary_encode()

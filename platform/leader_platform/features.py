"""The teacher's features as files and arrays: `features/<split>/part-*.parquet`, row for row with the sample files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from leader_platform import storage
from leader_platform.artifacts import FEATURES, Run
from leader_platform.data.dataset import PreparedData


def feature_table(sample_ids: list[str], hidden_states: np.ndarray, logits: np.ndarray) -> pa.Table:
    """sample_id, hidden_state and logits, both as fixed-size lists of float32."""
    columns = {"hidden_state": list_column(hidden_states), "logits": list_column(logits)}
    return pa.table({"sample_id": sample_ids, **columns})


def list_column(values: np.ndarray) -> pa.Array:
    """Rows of [rows, size] as a column of fixed-size lists of float32."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists as float32 [rows, size]."""
    return np.stack(column.to_numpy()) if len(column) else np.zeros((0, 0), np.float32)


def read_features(run: Run, data: PreparedData, split: str, column: str) -> np.ndarray:
    """One column of a split's features, row for row with `data.samples(split)`: float32 [samples, size]."""
    names = [part.rsplit("/", 1)[-1] for part in data.sample_parts(split)]
    table = pa.concat_tables([storage.read_parquet(run.path(FEATURES, split, n), ["sample_id", column]) for n in names])
    assert table["sample_id"].equals(data.samples(split, ["sample_id"])["sample_id"]), "features of other samples"
    return matrix(table[column])


def label_matrix(data: PreparedData, split: str) -> np.ndarray:
    """The labels of a split, bool [samples, medications]."""
    rows = data.samples(split, ["labels"])["labels"].to_pylist()
    labels = np.zeros((len(rows), len(data.vocabulary.medications)), dtype=bool)
    for index, codes in enumerate(rows):
        labels[index, data.vocabulary.labels(codes)] = True
    return labels


def probabilities(logits: np.ndarray) -> np.ndarray:
    """sigmoid(logits), without overflow for large negative ones."""
    return np.exp(-np.logaddexp(0, -logits))

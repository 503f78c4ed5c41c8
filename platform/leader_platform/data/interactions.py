"""Drug-drug interactions between medication classes: the package's own table, or a terminology directory's."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow as pa

from leader_platform import storage
from leader_platform.data.dataset import INTERACTION_SCHEMA
from leader_platform.errors import UserError

GAMENET_FILE = "ddi_atc3.csv"


def package_interactions() -> pa.Table:
    """Interactions that hold for most of two whole classes, with severity, reason and source; what concerns single
    substances alone is left out, since an alert that is mostly wrong is soon ignored."""
    text = resources.files("leader_platform.data").joinpath("tables/interactions.csv").read_text()
    return _table(pd.read_csv(io.StringIO(text), dtype=str))


def terminology_interactions(directory: str) -> pa.Table | None:
    """The class pairs of `ddi_atc3.csv`, None when the directory has no such file.

    The literature calls the pairs most severe; they are its matrix of the rarest side effects, so none is claimed.
    """
    uri = storage.join(directory, GAMENET_FILE)
    if not storage.exists(uri):
        return None
    try:
        frame = pd.read_csv(io.BytesIO(storage.read_bytes(uri)), dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{uri} is not a readable table ({' '.join(str(error).split())}); fetch it again.") from None
    if list(frame.columns) != ["atc3_a", "atc3_b"]:
        raise UserError(
            f"{uri} must have the columns atc3_a,atc3_b (it has {', '.join(frame.columns)}); fetch it again."
        )
    frame = frame.rename(columns={"atc3_a": "code_a", "atc3_b": "code_b"})
    return _table(
        frame.assign(severity=None, reason="Listed as interacting in the literature.", source="GAMENet matrix")
    )


def _table(frame: pd.DataFrame) -> pa.Table:
    frame = frame.assign(code_a="ATC:" + frame["code_a"], code_b="ATC:" + frame["code_b"])
    return pa.Table.from_pandas(frame[INTERACTION_SCHEMA.names], schema=INTERACTION_SCHEMA, preserve_index=False)


def interaction_matrix(interactions: pa.Table, medications: tuple[str, ...]) -> np.ndarray:
    """Symmetric bool matrix [medications, medications] of interacting pairs."""
    index = {code: position for position, code in enumerate(medications)}
    matrix = np.zeros((len(medications), len(medications)), dtype=bool)
    for code_a, code_b in zip(interactions["code_a"].to_pylist(), interactions["code_b"].to_pylist(), strict=True):
        if code_a in index and code_b in index:
            matrix[index[code_a], index[code_b]] = matrix[index[code_b], index[code_a]] = True
    return matrix

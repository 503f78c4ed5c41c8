"""Drug-drug interactions of medication classes, which models recommend, and of substances, which patients take.

The package's tables are facts in our own words. Where a source is the "ONC high-priority list (2012)" it is
Phansalkar et al., JAMIA 2012, doi 10.1136/amiajnl-2011-000612. `contraindicated` is what the list or the label forbids,
`major` what it warns of as dangerous or says to avoid, `moderate` what it says to watch or to dose for.

Two limits. Of two recommended classes only the class pairs are known: what concerns single substances raises an alert
once one of them is a current medication. And opioids within cough combinations (R05FA) are in no list.
"""

from __future__ import annotations

import csv
import io
from importlib import resources
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform import storage
from leader_platform.data.dataset import INTERACTION_SCHEMA
from leader_platform.errors import UserError

GAMENET_FILE = "ddi_atc3.csv"
_BETWEEN_NAMES = "; "
_LENGTH_OF_CLASS = len("ATC:C09A")


def interactions(terminology: str | None) -> pa.Table:
    """What a data set knows: the class pairs of the terminology directory where it has any, else the package's; and
    always the package's substance pairs."""
    given = terminology_interactions(terminology) if terminology else None
    return pa.concat_tables([package_interactions() if given is None else given, substance_interactions()])


def package_interactions() -> pa.Table:
    """Interactions that hold for most of two whole classes, with severity, reason and source; what concerns single
    substances alone is left out, since an alert that is mostly wrong is soon ignored."""
    return _table(pd.DataFrame(_rows("interactions.csv")))


def substance_interactions() -> pa.Table:
    """Interactions of substances, a row for each pair of their ATC codes of the fifth level.

    A side of a line of the package's table names substances and groups of them; the line holds for every pair of its
    two sides. Of several lines about a pair the first holds, and the most severe stand first.
    """
    codes = {
        row["substance"]: f"{row['atc']} {row['seldom_meant']}".split() for row in _rows("interaction_substances.csv")
    }
    groups = {row["group"]: row["substances"] for row in _rows("interaction_groups.csv")}

    def members(side: str) -> list[str]:
        parts = side.split(_BETWEEN_NAMES)
        return [name for part in parts for name in (members(groups[part]) if part in groups else [part])]

    facts: dict[tuple[str, str], dict[str, str]] = {}
    for row in _rows("substance_interactions.csv"):
        for first, second in product(members(row["a"]), members(row["b"])):
            for code_a, code_b in product(codes[first], codes[second]):
                if first != second and code_a != code_b:
                    facts.setdefault((min(code_a, code_b), max(code_a, code_b)), row)
    return _table(pd.DataFrame([row | {"code_a": a, "code_b": b} for (a, b), row in facts.items()]))


def substance_names() -> dict[str, str]:
    """Code -> name of all interacting substances; of a combination, the names of its parts:
    `hydrochlorothiazide/lisinopril`."""
    names: dict[str, list[str]] = {}
    for row in _rows("interaction_substances.csv"):
        for code in f"{row['atc']} {row['seldom_meant']}".split():
            names.setdefault(f"ATC:{code}", []).append(row["substance"])
    return {code: "/".join(parts) for code, parts in names.items()}


def seldom_meant() -> frozenset[str]:
    """Codes of the substances that a recommendation of their class is not taken to mean.

    Aspirin of the analgesics and lithium of the antipsychotics are such: they interact when a patient takes them, but
    to name them whenever their class is recommended would be a false alarm.
    """
    rows = _rows("interaction_substances.csv")
    return frozenset(f"ATC:{code}" for row in rows for code in row["seldom_meant"].split())


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


def _rows(file_name: str) -> list[dict[str, str]]:
    text = resources.files("leader_platform.data").joinpath("tables", file_name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _table(frame: pd.DataFrame) -> pa.Table:
    frame = frame.assign(code_a="ATC:" + frame["code_a"], code_b="ATC:" + frame["code_b"])
    return pa.Table.from_pandas(frame[INTERACTION_SCHEMA.names], schema=INTERACTION_SCHEMA, preserve_index=False)


def between_classes(interactions: pa.Table) -> pa.Table:
    """The rows whose two sides are classes."""
    lengths = [pc.equal(pc.utf8_length(interactions[side]), _LENGTH_OF_CLASS) for side in ("code_a", "code_b")]
    return interactions.filter(pc.and_(*lengths))


def interaction_matrix(interactions: pa.Table, medications: tuple[str, ...]) -> np.ndarray:
    """Symmetric bool matrix [medications, medications] of interacting pairs of classes."""
    index = {code: position for position, code in enumerate(medications)}
    matrix = np.zeros((len(medications), len(medications)), dtype=bool)
    pairs = between_classes(interactions)
    for code_a, code_b in zip(pairs["code_a"].to_pylist(), pairs["code_b"].to_pylist(), strict=True):
        if code_a in index and code_b in index:
            matrix[index[code_a], index[code_b]] = matrix[index[code_b], index[code_a]] = True
    return matrix

"""How far the prescriptions themselves interact: tallies of batches of visits, and what a data set's tally amounts to.

A *level* is what an interaction is between: medication classes or substances. A *pair* is two different codes of one
level in alphabetical order; rows of the table that are none (a class with a substance) cannot be counted and are not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# Level -> the visits' column that holds its codes, and how long such a code is.
LEVELS = {"classes": ("medications", len("ATC:C09A")), "substances": ("substances", len("ATC:C09AA05"))}
NOT_STATED = "not stated"
_MOST_FREQUENT = 10


@dataclass(frozen=True)
class InteractingPair:
    """A listed pair and the number of visits in which both were prescribed; its first row in the table tells of it."""

    code_a: str
    code_b: str
    severity: str | None
    reason: str
    source: str
    visits: int


@dataclass(frozen=True)
class InteractionStatistics:
    """The interactions within visits, at one level.

    `rate` is the literature's, as in `metrics.interaction_rate`: of all pairs of codes of a visit, over all visits
    together, the share that is listed; None where no visit has two codes. `by_severity` and `by_source` count the
    interacting pairs of all visits; a pair that two sources list counts for both.
    """

    listed_pairs: int
    met_pairs: int
    pairs: int
    interacting: int
    rate: float | None
    visits_with_interaction: int
    by_severity: dict[str, int]
    by_source: dict[str, int]
    most_frequent: tuple[InteractingPair, ...]


@dataclass(frozen=True)
class ListedPairs:
    """The pairs of one level that are listed as interacting, each with the rows of the table that list it."""

    level: str
    rows: dict[tuple[str, str], list[dict[str, Any]]]

    @classmethod
    def of(cls, interactions: pa.Table, level: str) -> ListedPairs:
        _, length = LEVELS[level]
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in interactions.to_pylist():
            code_a, code_b = sorted((row["code_a"], row["code_b"]))
            if code_a != code_b and len(code_a) == len(code_b) == length:
                rows.setdefault((code_a, code_b), []).append(row)
        return cls(level, rows)

    @cached_property
    def codes(self) -> list[str]:
        return sorted({code for pair in self.rows for code in pair})

    @cached_property
    def positions(self) -> npt.NDArray[np.int64]:
        """Each pair's positions in `codes`: [pairs, 2]."""
        index = {code: position for position, code in enumerate(self.codes)}
        return np.array([[index[code] for code in pair] for pair in self.rows], dtype=np.int64).reshape(-1, 2)


def interaction_tally(visits: pa.RecordBatch, listed: ListedPairs) -> Counter:
    """The pairs of codes in the visits, and in how many of the visits each listed pair stands."""
    codes = visits[LEVELS[listed.level][0]]
    lengths = pc.list_value_length(codes).to_numpy()
    tally: Counter = Counter({("pairs", listed.level): int((lengths * (lengths - 1) // 2).sum())})
    found = pc.index_in(pc.list_flatten(codes), value_set=pa.array(listed.codes, pa.string()))
    present = np.zeros((len(codes), len(listed.codes)), dtype=np.float32)
    present[pc.list_parent_indices(codes).filter(pc.is_valid(found)), found.drop_null()] = 1
    first, second = listed.positions.T
    interacting = np.zeros((len(listed.codes),) * 2, dtype=np.float32)
    interacting[first, second] = 1
    tally[("visits with interaction", listed.level)] = int(((present @ interacting) * present).any(axis=1).sum())
    together = (present.T @ present)[first, second].astype(int).tolist()
    tally.update({("interacting", *pair): count for pair, count in zip(listed.rows, together, strict=True)})
    return tally


def interaction_statistics(tally: Counter, listed: ListedPairs) -> InteractionStatistics:
    """The statistics of a whole data set's tally."""
    visits = {pair: tally[("interacting", *pair)] for pair in listed.rows}
    by: dict[str, Counter] = {"severity": Counter(), "source": Counter()}
    for pair, rows in listed.rows.items():
        for name, counter in by.items():
            counter.update({row[name] or NOT_STATED: visits[pair] for row in rows if visits[pair]})
    most = sorted((pair for pair in visits if visits[pair]), key=lambda pair: (-visits[pair], pair))[:_MOST_FREQUENT]
    pairs, interacting = tally[("pairs", listed.level)], sum(visits.values())
    return InteractionStatistics(
        listed_pairs=len(visits),
        met_pairs=sum(count > 0 for count in visits.values()),
        pairs=pairs,
        interacting=interacting,
        rate=interacting / pairs if pairs else None,
        visits_with_interaction=tally[("visits with interaction", listed.level)],
        by_severity=dict(by["severity"].most_common()),
        by_source=dict(by["source"].most_common()),
        most_frequent=tuple(InteractingPair(**listed.rows[pair][0], visits=visits[pair]) for pair in most),
    )

"""Records as the student reads them: code sets in flat arrays, cut into batches by numpy indexing. No torch.

A visit's codes of one kind are a set. Sets differ in size, and padding each to the largest would be most of the work
(FIELD, defect 12), so a batch lays whole sets side by side in rows of a fixed width, as sequences are packed for
language models; attention then keeps to a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord
from leader_platform.data.vocabulary import SPECIAL, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from leader_platform.models.code_book import WideInputs

# Wide enough that whole sets leave little of a row empty, narrow enough that attention, whose cost grows with the
# square, costs less than the layers around it: 24 to 48 are equally fast (measured).
ROW_WIDTH = 32


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths, one after another."""

    values: np.ndarray  # [items]
    starts: np.ndarray  # [lists + 1] where each list begins in `values`; the last entry is its end

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Ragged:
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(items) for items in lists], out=starts[1:])
        return cls(np.array([item for items in lists for item in items], np.int64), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def owners(self) -> np.ndarray:
        """The list that each item belongs to [items]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, chosen: np.ndarray) -> Ragged:
        """Some of the lists, in the order given."""
        lengths = self.lengths[chosen]
        starts = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        positions = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], lengths)
        return Ragged(self.values[positions], starts)


@dataclass(frozen=True)
class EncodedRecords:
    """Records as indices: the codes of each non-empty set, and which sets a record has of each kind."""

    sets: Ragged  # the codes of each set, as rows of the one embedding table
    visits: Ragged  # [records x kinds] numbers of the sets of a record and kind, oldest visit first
    profile: np.ndarray  # [records, fields]
    wide: WideInputs | None = None  # what the wide layer reads, if the student has one

    def __len__(self) -> int:
        return len(self.profile)


def encode_records(records: Iterable[PatientRecord], vocabulary: Vocabulary) -> EncodedRecords:
    """The vocabulary's view of records. The current visits' medications are never part of it: they are the answer.

    Codes that training never saw are left out: their common embedding was never trained, and would be noise.
    """
    offsets = table_offsets(vocabulary)
    sets: list[list[int]] = []
    visits: list[range] = []
    profile: list[list[int]] = []
    for record in records:
        for kind in KINDS:
            first = len(sets)
            stays = record.history if kind == "medications" else (*record.history, record.current)
            for stay in stays:
                known = [i + offsets[kind] for i in vocabulary.encode(kind, getattr(stay, kind)) if i != UNKNOWN]
                if known:
                    sets.append(known)
            visits.append(range(first, len(sets)))
        profile.append(vocabulary.encode_profile(record.profile))
    fields = np.array(profile, np.int64).reshape(-1, len(PROFILE_FIELDS))
    return EncodedRecords(Ragged.of(sets), Ragged.of(visits), fields)


def table_offsets(vocabulary: Vocabulary) -> dict[str, int]:
    """Where each kind's indices begin in the one embedding table: each after the one before, special entries too."""
    sizes = [len(vocabulary.codes[kind]) for kind in KINDS]
    return dict(zip(KINDS, [0, sizes[0], sizes[0] + sizes[1]], strict=True))


def medication_sets(labels: Ragged, vocabulary: Vocabulary) -> Ragged:
    """Labels as sets of codes: rows of the embedding table in place of label indices."""
    return Ragged(labels.values + table_offsets(vocabulary)["medications"] + len(SPECIAL), labels.starts)


@dataclass(frozen=True)
class Rows:
    """Groups of items in rows [rows, width]: whole groups side by side, at least one row."""

    items: np.ndarray  # [rows, width] the items' values; 0 where nothing is
    groups: np.ndarray  # [rows, width] the group that an item belongs to; `num_groups` where nothing is
    num_groups: int


def pack(groups: Ragged) -> Rows:
    """Lay groups out in rows, in their order: each begins in the row of the one before it where it fits, else in a new
    one. A group larger than `ROW_WIDTH` widens all rows."""
    lengths = groups.lengths.tolist()
    width = max(1, min(ROW_WIDTH, len(groups.values)), *lengths)
    begins, used = [], 0  # `used` counts the places of all rows so far
    for length in lengths:
        if used % width + length > width:
            used += -used % width
        begins.append(used)
        used += length
    num_rows = max(1, -(-used // width))
    places = np.repeat(np.array(begins, np.int64) - groups.starts[:-1], groups.lengths) + np.arange(len(groups.values))
    items, owners = np.zeros(num_rows * width, np.int64), np.full(num_rows * width, len(groups))
    items[places], owners[places] = groups.values, groups.owners
    return Rows(items.reshape(-1, width), owners.reshape(-1, width), len(groups))

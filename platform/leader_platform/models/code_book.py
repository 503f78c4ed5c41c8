"""What the student knows of each code beside its own embedding: its categories, and a language model's reading of its
title. A code that training never saw is still of a category, and its title still means something. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from leader_platform.data.code_parents import parents
from leader_platform.data.records import KINDS, PatientRecord, Visit
from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.features import list_column, matrix
from leader_platform.models.encoding import EncodedRecords, Ragged, encode_records

# What the wide layer tells apart: the kind of a code, and whether it is of now, of the past, or of the visit before.
SLOTS = (
    "current diagnoses",
    "current procedures",
    "past diagnoses",
    "past procedures",
    "past medications",
    "last medications",
)


@dataclass(frozen=True)
class CodeBook:
    """Codes as numbers of categories and as vectors.

    `categories` numbers the codes and their categories that training saw; `states` [codes, size] are the readings of
    titles, by the row that `rows` gives a code. Both are fixed before training.
    """

    categories: dict[str, int]
    rows: dict[str, int]
    states: np.ndarray

    @classmethod
    def of(cls, vocabulary: Vocabulary, readings: TitleReadings | None, size: int) -> CodeBook:
        """Of the codes of a training vocabulary, and of all codes that were read: at most `size` numbers a reading."""
        seen = [code for kind in KINDS for code in list(vocabulary.codes[kind])[len(SPECIAL) :]]
        names = sorted({name for code in seen for name in (code, *parents(code))})
        rows, states = {}, np.zeros((0, 1), np.float32)
        if readings is not None:
            rows = {code: row for row, code in enumerate(readings.codes)}
            states = principal_components(readings.states, [rows[code] for code in seen if code in rows], size)
        return cls({name: number for number, name in enumerate(names)}, rows, states)

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        return {}

    def numbers(self, code: str) -> list[int]:
        """The code itself and its categories, as far as training saw them."""
        if code not in self._numbers:
            self._numbers[code] = [self.categories[n] for n in (code, *parents(code)) if n in self.categories]
        return self._numbers[code]

    @classmethod
    def from_table(cls, vocabulary: Vocabulary, table: pa.Table) -> CodeBook:
        """What `to_table` told."""
        bare = cls.of(vocabulary, None, 0)
        rows = {code: row for row, code in enumerate(table["code"].to_pylist())}
        return replace(bare, rows=rows, states=matrix(table["state"]) if rows else bare.states)

    def to_table(self) -> pa.Table:
        """`rows` and `states`; the categories follow from the vocabulary."""
        return pa.table({"code": pa.array(list(self.rows), pa.string()), "state": list_column(self.states)})


@dataclass(frozen=True)
class TitleReadings:
    """A language model's states of code titles: `states` float32 [codes, hidden]."""

    codes: Sequence[str]
    states: np.ndarray


def principal_components(states: np.ndarray, fitted_on: Sequence[int], size: int) -> np.ndarray:
    """States [rows, hidden] in the first `size` principal axes of the rows `fitted_on`, of mean length 1 there.

    Fewer axes where those rows have fewer. Without any, or with equal ones, nothing is known of the scale: it stays.
    """
    base = states[list(fitted_on)] if len(fitted_on) else states
    centre = base.mean(axis=0)
    _, _, axes = np.linalg.svd(base - centre, full_matrices=False)
    reduced = (states - centre) @ axes[:size].T
    length = np.linalg.norm((base - centre) @ axes[:size].T, axis=1).mean()
    return (reduced / (length or 1.0)).astype(np.float32)


@dataclass(frozen=True)
class WideInputs:
    """What the wide layer reads: for each record and slot the numbers of its categories, and the rows of its codes; and
    for each record what the visit before was given."""

    categories: Ragged  # [records x slots], each number once
    rows: Ragged  # [records x slots]
    counts: np.ndarray  # float32 [records, slots] log(1 + codes)
    previous: Ragged  # [records] labels of the medications of the visit before the current one
    num_categories: int
    num_medications: int

    def take(self, records: np.ndarray) -> WideInputs:
        """Some of the records, in the order given."""
        lists = (records[:, None] * len(SLOTS) + np.arange(len(SLOTS))).ravel()
        return replace(
            self,
            categories=self.categories.take(lists),
            rows=self.rows.take(lists),
            counts=self.counts[records],
            previous=self.previous.take(records),
        )

    def given(self) -> np.ndarray:
        """Whether the visit before had a medication: bool [records, medications]."""
        given = np.zeros((len(self.previous), self.num_medications), dtype=bool)
        given[self.previous.owners, self.previous.values] = True
        return given


def encode(records: Sequence[PatientRecord], vocabulary: Vocabulary, book: CodeBook | None) -> EncodedRecords:
    """Records for both parts of a student; without a book for its deep part alone."""
    encoded = encode_records(records, vocabulary)
    return encoded if book is None else replace(encoded, wide=wide_inputs(records, vocabulary, book))


def wide_inputs(records: Iterable[PatientRecord], vocabulary: Vocabulary, book: CodeBook) -> WideInputs:
    """Records by slot. The current visit's medications are never part of it: they are the answer."""
    categories: list[list[int]] = []
    rows: list[list[int]] = []
    counts: list[list[int]] = []
    previous: list[list[int]] = []
    for record in records:
        slots = _slots(record)
        categories += [list(dict.fromkeys(n for code in codes for n in book.numbers(code))) for codes in slots]
        rows += [[book.rows[code] for code in codes if code in book.rows] for codes in slots]
        counts.append([len(codes) for codes in slots])
        previous.append(vocabulary.previous_labels(record))
    numbers = np.log1p(np.array(counts, np.float32).reshape(-1, len(SLOTS)))
    return WideInputs(
        Ragged.of(categories),
        Ragged.of(rows),
        numbers,
        Ragged.of(previous),
        len(book.categories),
        len(vocabulary.medications),
    )


def _slots(record: PatientRecord) -> list[list[str]]:
    """The distinct codes of each of `SLOTS`."""

    def distinct(kind: str, visits: Iterable[Visit]) -> list[str]:
        return list(dict.fromkeys(code for visit in visits for code in getattr(visit, kind)))

    now, past, last = (record.current,), record.history, record.history[-1:]
    return [
        distinct("diagnoses", now),
        distinct("procedures", now),
        distinct("diagnoses", past),
        distinct("procedures", past),
        distinct("medications", past),
        distinct("medications", last),
    ]

"""Codes and profile values as indices, fitted on the training split alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord

PADDING, UNKNOWN = 0, 1
SPECIAL = ("<padding>", "<unknown>")


class Vocabulary(BaseModel):
    """Per kind, code -> index; index 0 pads and 1 stands for every code that training never saw.

    The label of a medication is its index less `len(SPECIAL)`: labels have no padding and no unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: dict[str, dict[str, int]]
    profile: dict[str, dict[str, int]]

    @property
    def medications(self) -> tuple[str, ...]:
        """The medications that can be recommended, in the order of labels and logits."""
        return tuple(self.codes["medications"])[len(SPECIAL) :]

    def encode(self, kind: str, codes: Iterable[str]) -> list[int]:
        table = self.codes[kind]
        return [table.get(code, UNKNOWN) for code in codes]

    def labels(self, medications: Iterable[str]) -> list[int]:
        """Sorted label indices of the medications that are known."""
        table = self.codes["medications"]
        return sorted(table[code] - len(SPECIAL) for code in medications if code in table)

    def previous_labels(self, record: PatientRecord) -> list[int]:
        """`labels` of the visit before the current one; empty on a first visit."""
        return self.labels(code for visit in record.history[-1:] for code in visit.medications)

    def encode_profile(self, profile: dict[str, Any]) -> list[int]:
        """One index a field, in the order of `PROFILE_FIELDS`."""
        return [self.profile[name].get(profile_value(name, profile.get(name)), UNKNOWN) for name in PROFILE_FIELDS]

    def unknown_codes(self, record: PatientRecord) -> list[str]:
        """The codes of a record that the models cannot tell apart, once each, in order."""
        visits = (*record.history, record.current)
        codes = (
            code for visit in visits for kind in KINDS for code in getattr(visit, kind) if code not in self.codes[kind]
        )
        return list(dict.fromkeys(codes))


def profile_value(field: str, value: Any) -> str:
    """A profile value as its vocabulary's key: ages in bands of ten years, ninety and over together; missing is ""."""
    if value is None:
        return ""
    if field == "age":
        band = min(int(value) // 10, 9) * 10
        return f"{band}-{band + 9}" if band < 90 else "90+"
    return str(value).strip().upper()


def count_values(visits: pa.Table) -> Counter:
    """How many visits hold each code and each profile value: keys `(kind, code)` and `("profile", field, value)`.

    A visit's codes are distinct, as `cohort.visits` makes them.
    """
    counts: Counter = Counter()
    for kind in KINDS:
        counts.update({(kind, code): count for code, count in _value_counts(pc.list_flatten(visits[kind]))})
    for field in PROFILE_FIELDS:
        for value, count in _value_counts(visits[field]):
            counts["profile", field, profile_value(field, value)] += count
    return counts


def _value_counts(column: pa.ChunkedArray) -> Iterator[tuple[Any, int]]:
    values, counts = pc.value_counts(column).flatten()
    return zip(values.to_pylist(), counts.to_pylist(), strict=True)


def fit_vocabulary(counts: Counter, min_code_count: int) -> Vocabulary:
    """The vocabulary of a training split from its summed `count_values`. Codes are in alphabetical order, so that the
    same split gives the same indices anywhere."""

    def table(names: Sequence[str]) -> dict[str, int]:
        return {name: index for index, name in enumerate((*SPECIAL, *sorted(names)))}

    kept = [key for key, count in counts.items() if count >= min_code_count]
    return Vocabulary(
        codes={kind: table([key[1] for key in kept if key[0] == kind]) for kind in KINDS},
        profile={
            field: table([key[2] for key in counts if key[:2] == ("profile", field) and key[2]])
            for field in PROFILE_FIELDS
        },
    )

"""The patient as every part of the platform sees one: a profile and visits in time order, the last one current."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

KINDS = ("diagnoses", "procedures", "medications")
PROFILE_FIELDS = ("gender", "age", "insurance", "language", "marital_status", "race")


@dataclass(frozen=True)
class Visit:
    """One hospital stay's codes, namespaced (`ICD10CM:I10`, `ICD9PCS:3961`, `ATC:C09A`), in the source's order."""

    diagnoses: tuple[str, ...] = ()
    procedures: tuple[str, ...] = ()
    medications: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Visit:
        return cls(**{kind: tuple(row.get(kind) or ()) for kind in KINDS})


@dataclass(frozen=True)
class PatientRecord:
    """A request for a recommendation: what is known when the current visit's medications are chosen.

    `history` holds the earlier visits, oldest first; `current` the visit to recommend for (its medications are the
    label in training and unknown in serving: no model reads them). `profile` maps `PROFILE_FIELDS` to text, age in
    years as a number; a missing field is absent or None.
    """

    profile: dict[str, Any] = field(default_factory=dict)
    history: tuple[Visit, ...] = ()
    current: Visit = Visit()

    @property
    def is_first_visit(self) -> bool:
        return not self.history

    @classmethod
    def from_sample(cls, row: dict[str, Any]) -> PatientRecord:
        """From a row of `samples/*.parquet`."""
        return cls(
            profile={name: row[name] for name in PROFILE_FIELDS if row.get(name) is not None},
            history=tuple(Visit.from_row(visit) for visit in row["history"]),
            current=Visit(tuple(row["diagnoses"]), tuple(row["procedures"])),
        )

"""Random small cohorts as events, for property tests: codes tell to which stay they belong."""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow as pa
from hypothesis import strategies as st

from leader_platform.data.prescriptions import MAPPED_SCHEMA
from leader_platform.data.sources.events import EVENT_SCHEMAS

CLASSES = ("ATC:N02BE01", "ATC:B01AC06", "ATC:C03CA01", "ATC:C09AA03", "ATC:A10AB01", "ATC:C09A")
START = datetime(2150, 1, 1)
Events = dict[str, pa.Table]


@st.composite
def events(draw: st.DrawFn) -> Events:
    """Up to five patients with up to six stays each: stay numbers in random order, times that may be equal, empty
    lists of every kind. The codes of stay 7 are `ICD10CM:D7x`, so that a test can tell whose they are."""
    tables: dict[str, list[dict]] = {kind: [] for kind in ("patients", "admissions", "diagnoses", "procedures")}
    tables["medications"] = []
    numbers = iter(draw(st.permutations(range(1, 31))))
    for subject in range(1, draw(st.integers(3, 5)) + 1):
        born = datetime(2150 - draw(st.integers(0, 100)), 1, 1)
        tables["patients"].append({"subject_id": subject, "gender": draw(st.sampled_from(["F", "M", None])),
                                   "born_at": born, "year_shift": -140})  # fmt: skip
        for _ in range(draw(st.integers(1, 6))):
            _add_stay(draw, tables, subject, next(numbers))
    schemas = {**EVENT_SCHEMAS, "medications": MAPPED_SCHEMA}
    return {kind: pa.Table.from_pylist(rows, schema=schemas[kind]) for kind, rows in tables.items()}


def _add_stay(draw: st.DrawFn, tables: dict[str, list[dict]], subject: int, stay: int) -> None:
    ids = {"subject_id": subject, "hadm_id": stay}
    admitted = START + timedelta(days=draw(st.integers(0, 5)))
    tables["admissions"].append({**ids, "admitted_at": admitted, "insurance": "Medicare", "race": None})
    for kind, letter in (("diagnoses", "D"), ("procedures", "P")):
        for suffix in draw(st.lists(st.sampled_from("ABC"), max_size=3)):
            position = draw(st.one_of(st.none(), st.integers(1, 3)))
            tables[kind].append({**ids, "position": position, "code": f"ICD10CM:{letter}{stay}{suffix}"})
    for code in draw(st.lists(st.sampled_from(CLASSES), max_size=6)):
        hours = draw(st.one_of(st.none(), st.integers(-5, 60), st.integers(-440_000, 440_000)))  # 50 years either way
        started = None if hours is None else admitted + timedelta(hours=hours)
        tables["medications"].append({**ids, "started_at": started, "atc": code})

"""From events to visits, and from visits to a split by patient: pure functions on Arrow tables.

A *tally* is a `Counter` whose keys are `(name,)` or `(name, item)`; tallies of shards add up to the cohort's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable

import pandas as pd
import pyarrow as pa

from leader_platform.config import DataConfig
from leader_platform.data.drugs import atc_class
from leader_platform.data.records import KINDS

VISIT_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("hadm_id", pa.int64()),
        ("admitted_at", pa.timestamp("ms")),
        ("visit_number", pa.int32()),
        *((kind, pa.list_(pa.string())) for kind in KINDS),
        ("labels", pa.list_(pa.string())),
        ("substances", pa.list_(pa.string())),
        ("gender", pa.string()),
        ("age", pa.int32()),
        *((name, pa.string()) for name in ("insurance", "language", "marital_status", "race")),
    ]
)

# The steps of the cohort, in the order in which visits fall out.
FLOW = (
    "admissions",
    "with a diagnosis",
    "with a mapped medication",
    "with a procedure, where required",
    "of patients with enough visits",
)


def visits(events: dict[str, pa.Table], config: DataConfig) -> tuple[pa.Table, Counter]:
    """The visits of all patients in `events`, ordered by patient and admission time, and a tally of what was left out.

    `events` maps patients, admissions, diagnoses, procedures and medications to tables of `mimic4.events`. A visit
    number counts the kept visits of a patient from 1. Visits are ordered by admission time, never by `hadm_id`, which
    is random (FIELD, defect 2).
    """
    tally: Counter = Counter()
    frame = events["admissions"].to_pandas().drop_duplicates("hadm_id")
    frame = frame.merge(events["patients"].to_pandas().drop_duplicates("subject_id"), on="subject_id", how="left")
    frame["age"] = (frame["admitted_at"].dt.year - frame["birth_year"]).clip(lower=0)
    for kind in ("diagnoses", "procedures"):
        coded = events[kind].to_pandas().dropna(subset=["code"]).sort_values(["hadm_id", "position"])
        frame[kind] = frame["hadm_id"].map(_lists(coded, "code"))
    medications = _medications(events["medications"].to_pandas(), tally)
    frame["medications"] = frame["hadm_id"].map(_lists(medications, "class"))
    frame["labels"] = frame["hadm_id"].map(_lists(_in_label_window(medications, frame, config, tally), "class"))
    frame["substances"] = frame["hadm_id"].map(_lists(medications[medications["atc"].str.len() == 11], "atc"))
    kept = _filtered(frame, config, tally).sort_values(["subject_id", "admitted_at", "hadm_id"])
    kept["visit_number"] = kept.groupby("subject_id").cumcount() + 1
    for kind in (*KINDS, "labels", "substances"):
        codes = [found if isinstance(found, list) else [] for found in kept[kind]]
        kept[kind] = pd.Series(codes, index=kept.index, dtype=object)
    for name in ("age", "visit_number"):
        kept[name] = kept[name].astype("Int32")
    return pa.Table.from_pandas(kept[VISIT_SCHEMA.names], schema=VISIT_SCHEMA, preserve_index=False), tally


def _medications(rows: pd.DataFrame, tally: Counter) -> pd.DataFrame:
    """Mapped medications, in the order in which they were started; counts coverage on the way."""
    tally[("prescription rows",)] += len(rows)
    tally[("mapped prescription rows",)] += int(rows["atc"].notna().sum())
    for name, count in rows.loc[rows["atc"].isna(), "drug"].fillna("(no name)").value_counts().items():
        tally[("unmapped", name)] += int(count)
    mapped = rows.dropna(subset=["atc"])
    mapped = mapped.sort_values(["hadm_id", "started_at", "drug"], kind="stable")
    return mapped.assign(**{"class": "ATC:" + mapped["atc"].map(atc_class), "atc": "ATC:" + mapped["atc"]})


def _in_label_window(
    medications: pd.DataFrame, admissions: pd.DataFrame, config: DataConfig, tally: Counter
) -> pd.DataFrame:
    """What is a label: medications started within the window. History always shows the whole stay."""
    if config.label_window_hours is None:
        return medications
    admitted = (
        admissions.set_index("hadm_id")["admitted_at"].reindex(medications["hadm_id"]).set_axis(medications.index)
    )
    inside = medications["started_at"] < admitted + pd.Timedelta(hours=config.label_window_hours)
    tally[("prescription rows outside the label window",)] += int((~inside).sum())
    return medications[inside]


def _lists(rows: pd.DataFrame, column: str) -> dict[Hashable, list[str]]:
    """Each admission's distinct codes, in order."""
    distinct = rows.drop_duplicates(["hadm_id", column])
    return distinct.groupby("hadm_id", sort=False)[column].agg(list).to_dict()


def _filtered(frame: pd.DataFrame, config: DataConfig, tally: Counter) -> pd.DataFrame:
    """Apply the cohort's filters in the order of `FLOW`, counting the visits that remain after each."""
    tally[("flow", FLOW[0])] += len(frame)
    frame = frame[frame["diagnoses"].notna()]
    tally[("flow", FLOW[1])] += len(frame)
    frame = frame[frame["medications"].notna()]
    tally[("flow", FLOW[2])] += len(frame)
    if config.require_procedures:
        frame = frame[frame["procedures"].notna()]
    tally[("flow", FLOW[3])] += len(frame)
    frame = frame[frame.groupby("subject_id")["hadm_id"].transform("size") >= config.min_visits]
    tally[("flow", FLOW[4])] += len(frame)
    return frame.copy()


def split_by_patient(subject_ids: Iterable[int], config: DataConfig) -> dict[int, str]:
    """Subject -> "train", "validation" or "test". A patient's place depends on the seed and the set of patients alone.

    Raises nothing: the caller refuses a cohort too small to split.
    """
    ranked = sorted(
        set(subject_ids), key=lambda subject: hashlib.sha256(f"{config.split_seed}:{subject}".encode()).digest()
    )
    num_test = max(1, round(len(ranked) * config.test_fraction))
    num_validation = max(1, round(len(ranked) * config.validation_fraction))
    names = ["test"] * num_test + ["validation"] * num_validation
    names += ["train"] * (len(ranked) - len(names))
    return dict(zip(ranked, names, strict=False))

"""From events to visits, and from visits to a split by patient: pure functions on Arrow tables.

What falls out is counted in a tally (`tallies.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.config import DataConfig
from leader_platform.data.drugs import atc_class
from leader_platform.data.lists import (
    NO_TIME,
    Booleans,
    Integers,
    as_integers,
    distinct_lists,
    first_of_pairs,
    group_of,
    lengths,
    sequence_of,
    sorted_dictionary,
    whole,
)
from leader_platform.data.records import KINDS
from leader_platform.data.sources.events import age_at
from leader_platform.data.tallies import Tally

VISIT_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("hadm_id", pa.int64()),
        ("admitted_at", pa.timestamp("ms")),
        ("year", pa.int32()),  # of the real calendar, where the source tells it
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

_STAY = ["subject_id", "hadm_id"]  # a number under two patients is two stays, whichever of them a shard holds
_SUBSTANCE_LENGTH = len("ATC:C09AA05")
_HOUR, _DAY = 3600, 24 * 3600  # seconds
_NO_TIME_SECONDS = NO_TIME // 2000  # half of what a missing start comes to: beyond every real time


def visits(events: Mapping[str, pa.Table], config: DataConfig) -> tuple[pa.Table, Tally]:
    """The visits of all patients in `events`, ordered by patient and admission time, and a tally of what was left out.

    `events` maps patients, admissions, diagnoses and procedures to tables of `EVENT_SCHEMAS`, and medications to
    `MAPPED_SCHEMA`. A visit number counts the kept visits of a patient from 1. Visits are ordered by admission time,
    never by `hadm_id`, which is random (FIELD, defect 2). Medications stand in the order in which they were started.
    """
    tally: Tally = Counter()
    stays = _stays(events, tally)
    columns = {kind: _coded(events[kind], kind, stays, tally) for kind in ("diagnoses", "procedures")}
    columns |= _medications(events["medications"], stays, config, tally)
    for name, column in columns.items():
        stays = stays.append_column(name, column)
    kept = _filtered(stays, config, tally)
    kept = kept.append_column("visit_number", pa.array(position_in_run(kept["subject_id"]) + 1, pa.int32()))
    return kept.select(VISIT_SCHEMA.names).cast(VISIT_SCHEMA).combine_chunks(), tally


def position_in_run(subjects: pa.ChunkedArray) -> Integers:
    """For rows that stand together by patient, how many of the same patient stand before: int64 [rows]."""
    values = subjects.to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, int)
    return np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))


def _stays(events: Mapping[str, pa.Table], tally: Tally) -> pa.Table:
    """One row an admission, in the order of visits, with the patient's profile."""
    stays = _first_of_each(events["admissions"], _STAY, "admissions: rows that repeat a stay", tally)
    stays = stays.sort_by([(name, "ascending") for name in ("subject_id", "admitted_at", "hadm_id")])
    patients = _first_of_each(events["patients"], ["subject_id"], "patients: rows that repeat a patient", tally)
    backwards = pc.less(stays["discharged_at"], stays["admitted_at"])
    _count(tally, "fault", "admissions: that end before they begin, kept", _num_true(backwards))
    whose = pc.index_in(stays["subject_id"], value_set=whole(patients["subject_id"]))
    _count(tally, "fault", "admissions: of patients who are not in the table of patients", whose.null_count)
    profile = patients.select(["gender", "born_at", "year_shift"]).take(whose)
    age = age_at(stays["admitted_at"], profile["born_at"])
    _count(
        tally,
        "fault",
        "patients: without a birth, so their stays have no age",
        _num_true(pc.and_not(pc.is_null(profile["born_at"]), pc.is_null(whose))),
    )
    unborn = pc.and_(pc.is_null(age), pc.is_valid(profile["born_at"]))
    _count(tally, "fault", "admissions: before the patient's birth, so without an age", _num_true(unborn))
    stays = stays.append_column("gender", profile["gender"]).append_column("age", age)
    year = pc.add(pc.cast(pc.year(stays["admitted_at"]), pa.int32()), profile["year_shift"])
    return stays.append_column("year", year)


def _first_of_each(table: pa.Table, keys: list[str], fault: str, tally: Tally) -> pa.Table:
    again = table.select(keys).to_pandas().duplicated().to_numpy()
    _count(tally, "fault", fault, int(again.sum()))
    return table.filter(pa.array(~again))


def _num_true(column: pa.ChunkedArray | pa.Array) -> int:
    return pc.sum(column).as_py() or 0


def _count(tally: Tally, kind: str, reason: str, number: int) -> None:
    if number:
        tally[(kind, reason)] += number


def _of_known_stays(rows: pa.Table, kind: str, stays: pa.Table, tally: Tally) -> tuple[pa.Table, Integers]:
    """The rows that belong to an admission, and the position of its stay."""
    group, known = group_of(rows, stays, _STAY)
    _count(tally, "fault", f"{kind}: rows of an admission that the patient does not have", int((~known).sum()))
    return (rows, group) if known.all() else (rows.filter(pa.array(known)), group[known])


def _coded(rows: pa.Table, kind: str, stays: pa.Table, tally: Tally) -> pa.ListArray:
    """Each stay's distinct codes in the order of their positions."""
    rows, group = _of_known_stays(rows, kind, stays, tally)
    codes, position = sorted_dictionary(rows["code"]), as_integers(rows["position"])
    sequence = sequence_of(group, position, codes.indices.to_numpy())
    codes, position, group = codes.take(pa.array(sequence)), position[sequence], group[sequence]
    index = codes.indices.to_numpy()
    again = (group[1:] == group[:-1]) & (position[1:] == position[:-1]) & (index[1:] == index[:-1])
    _count(tally, "fault", f"{kind}: rows given twice, counted once", int(again.sum()))
    return distinct_lists(group, codes, len(stays))


def _medications(rows: pa.Table, stays: pa.Table, config: DataConfig, tally: Tally) -> dict[str, pa.ListArray]:
    """Each stay's medication classes, its labels among them, and its substances, in the order of their start."""
    rows, group = _of_known_stays(rows, "prescriptions", stays, tally)
    # Seconds, so that a stay's orders fit the fast sort; nothing in MIMIC is finer than a minute.
    after_admission = (as_integers(rows["started_at"]) - as_integers(stays["admitted_at"])[group]) // 1000
    early = int((after_admission < -_DAY).sum())
    _count(tally, "fault", "prescriptions: that start more than a day before the stay, kept", early)
    _count(
        tally, "fault", "prescriptions: that start more than a day after the stay, kept", _num_late(rows, stays, group)
    )
    inside = _in_label_window(after_admission, config, tally)
    atc = sorted_dictionary(rows["atc"])
    sequence = sequence_of(group, after_admission, atc.indices.to_numpy())
    # The first order of a drug decides its place, and whether it is a label: the window is open to the left.
    sequence = sequence[first_of_pairs(group[sequence], atc.indices.to_numpy()[sequence])]
    group, inside, atc = group[sequence], inside[sequence], atc.take(pa.array(sequence))
    finest = atc.dictionary.to_pylist()
    classes = _recoded(atc, [f"ATC:{atc_class(code.removeprefix('ATC:'))}" for code in finest])
    is_substance = np.array([len(code) == _SUBSTANCE_LENGTH for code in finest], bool)[atc.indices.to_numpy()]
    return {
        "medications": distinct_lists(group, classes, len(stays)),
        "labels": distinct_lists(group[inside], classes.filter(pa.array(inside)), len(stays)),
        "substances": distinct_lists(group[is_substance], atc.filter(pa.array(is_substance)), len(stays)),
    }


def _recoded(codes: pa.DictionaryArray, names: list[str]) -> pa.DictionaryArray:
    """The column with `names` [dictionary] for its values; equal names become one value."""
    coarse = pa.array(names, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(coarse.indices.take(codes.indices), coarse.dictionary)


def _num_late(rows: pa.Table, stays: pa.Table, group: Integers) -> int:
    """How many of the rows start more than a day after the end of their stay, where both are known."""
    started, left = as_integers(rows["started_at"]), as_integers(stays["discharged_at"])[group]
    return int(((started > left + _DAY * 1000) & (started != NO_TIME)).sum())


def _in_label_window(after_admission: Integers, config: DataConfig, tally: Tally) -> Booleans:
    """Which prescriptions are labels: those started within the window. History always shows the whole stay.

    `after_admission` is in seconds.
    """
    if config.label_window_hours is None:
        return np.ones(len(after_admission), bool)
    inside = after_admission < config.label_window_hours * _HOUR
    undated = after_admission > _NO_TIME_SECONDS
    tally[("removed", "data.label_window_hours")] += int((~inside & ~undated).sum())
    _count(tally, "left out", "prescriptions: without a start, so not in the label window", int(undated.sum()))
    return inside


def _filtered(stays: pa.Table, config: DataConfig, tally: Tally) -> pa.Table:
    """Apply the cohort's filters in the order of `FLOW`, counting the visits that remain after each."""
    tally[("flow", FLOW[0])] += len(stays)
    steps = [("diagnoses", True), ("medications", True), ("procedures", config.require_procedures)]
    for step, (kind, required) in zip(FLOW[1:], steps, strict=False):
        before = len(stays)
        if required:
            stays = stays.filter(pa.array(lengths(whole(stays[kind])) > 0))
        tally[("flow", step)] += len(stays)
        if kind == "procedures":
            tally[("removed", "data.require_procedures")] += before - len(stays)
    num_visits = pc.value_counts(stays["subject_id"]).flatten()
    enough = num_visits[0].filter(pc.greater_equal(num_visits[1], config.min_visits))
    kept = stays.filter(pc.is_in(stays["subject_id"], value_set=enough))
    tally[("removed", "data.min_visits")] += len(stays) - len(kept)
    tally[("flow", FLOW[4])] += len(kept)
    return kept


def split_by_patient(last_years: Mapping[int, int | None], config: DataConfig) -> dict[int, str]:
    """Subject -> "train", "validation" or "test", from each subject's year of the last visit in the real calendar.

    At random, a patient's place depends on the seed and the set of patients alone. By time, the patients with the
    latest last visits are the test patients and those before them validate, so that training shows nothing from after
    the others' last visits; patients of one year are told apart at random. Raises nothing: the caller refuses a cohort
    too small to split, or one without years.
    """

    def rank(subject: int) -> tuple[int, bytes]:
        year = last_years[subject] if config.split == "time" else None
        return -(year or 0), hashlib.sha256(f"{config.split_seed}:{subject}".encode()).digest()

    ranked = sorted(last_years, key=rank)
    num_test = max(1, round(len(ranked) * config.test_fraction))
    num_validation = max(1, round(len(ranked) * config.validation_fraction))
    names = ["test"] * num_test + ["validation"] * num_validation
    names += ["train"] * (len(ranked) - len(names))
    return dict(zip(ranked, names, strict=False))

"""From visits to samples: what a model is asked and what the answer was. Pure functions on Arrow tables."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.config import DataConfig, PromptConfig
from leader_platform.data.cohort import position_in_run
from leader_platform.data.lists import Booleans, Integers, fill, keep_values, lengths, offsets_of, ranges, whole
from leader_platform.data.prompt_columns import render_prompts, visit_texts
from leader_platform.data.records import KINDS, PROFILE_FIELDS
from leader_platform.data.tallies import Tally
from leader_platform.data.vocabulary import Vocabulary

SPLITS = ("train", "validation", "test")

_SLICE = 8192  # samples made at a time: one column of text holds 2 GB at most, and memory stays bounded

_CODES = pa.list_(pa.string())
SAMPLE_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("subject_id", pa.int64()),
        ("hadm_id", pa.int64()),
        ("prior_visits", pa.int32()),
        ("prompt", pa.string()),
        ("history", pa.list_(pa.struct([(kind, _CODES) for kind in KINDS]))),
        ("diagnoses", _CODES),
        ("procedures", _CODES),
        ("labels", _CODES),
        *((name, pa.int32() if name == "age" else pa.string()) for name in PROFILE_FIELDS),
    ]
)


def samples(
    visits: pa.Table,
    vocabulary: Vocabulary,
    titles: Mapping[str, str],
    data: DataConfig,
    prompt: PromptConfig,
) -> tuple[pa.Table, Tally]:
    """The samples of whole patients, whose visits lie together in time order, and a tally.

    Rows stand in an order that is random and always the same, so that a trainer that reads them in order is not shown
    one patient's visits together. `labels` are the visit's labels that the training split knows; a visit with none
    of them asks a question that has no answer, and is counted instead.
    """
    tally: Tally = Counter()
    visits = visits.combine_chunks()
    prior_visits = position_in_run(visits["subject_id"])
    labels = whole(visits["labels"])
    known = _known_labels(labels, vocabulary)
    visits = visits.set_column(visits.column_names.index("labels"), "labels", known)
    candidates = _candidates(prior_visits, data)
    tally[("removed", "data.sample_visits")] += int((~candidates).sum())
    num_unknown = (lengths(labels) - lengths(known))[candidates]
    tally[("labels outside the training vocabulary",)] += int(num_unknown.sum())
    asked = _asked(visits, candidates, prior_visits, data, tally)
    texts = visit_texts(visits, titles)
    parts = [
        _ask(visits, texts, asked[start : start + _SLICE], prior_visits, data, prompt)
        for start in range(0, len(asked), _SLICE)
    ]
    return pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *parts]), tally


def teaches(rows: pa.Table, data: DataConfig) -> Booleans:
    """Which visits or samples may train and validate: all, or those coded in `data.train_icd_version` alone."""
    if data.train_icd_version is None:
        return np.ones(len(rows), bool)
    diagnoses = whole(rows["diagnoses"])
    same = pc.starts_with(pc.list_flatten(diagnoses), f"ICD{data.train_icd_version}CM:")
    return lengths(keep_values(diagnoses, same.to_numpy(zero_copy_only=False))) == lengths(diagnoses)


def _known_labels(labels: pa.ListArray, vocabulary: Vocabulary) -> pa.ListArray:
    medications = pa.array(vocabulary.medications, pa.string())
    is_known = pc.is_in(pc.list_flatten(labels), value_set=medications)
    return keep_values(labels, is_known.to_numpy(zero_copy_only=False))


def _candidates(prior_visits: Integers, data: DataConfig) -> Booleans:
    """Which visits are asked about, if they have an answer."""
    if data.sample_visits == "every":
        return np.ones(len(prior_visits), bool)
    return np.append(prior_visits[1:] == 0, True)[: len(prior_visits)]


def _asked(visits: pa.Table, candidates: Booleans, prior_visits: Integers, data: DataConfig, tally: Tally) -> Integers:
    """The rows of the visits that are samples, in the order of samples."""
    answered = lengths(whole(visits["labels"])) > 0
    tally[("samples without a known medication",)] += int((candidates & ~answered).sum())
    rows = np.flatnonzero(candidates & answered)
    cut = np.maximum(0, prior_visits[rows] - data.max_history_visits)
    tally[("removed", "data.max_history_visits")] += int(cut.sum())
    names = _sample_ids(visits.take(pa.array(rows))).to_pylist()
    return rows[sorted(range(len(rows)), key=lambda row: hashlib.sha256(names[row].encode()).digest())]


def _sample_ids(visits: pa.Table) -> pa.Array:
    subject, stay = (whole(pc.cast(visits[name], pa.string())) for name in ("subject_id", "hadm_id"))
    return fill("{subject}-{stay}", subject=subject, stay=stay)


def _ask(
    visits: pa.Table,
    texts: pa.Table,
    rows: Integers,
    prior_visits: Integers,
    data: DataConfig,
    prompt: PromptConfig,
) -> pa.Table:
    """One row of `SAMPLE_SCHEMA` for each visit of `rows`; a patient's earlier visits are the rows before."""
    current = visits.take(pa.array(rows))
    num_history = np.minimum(prior_visits[rows], data.max_history_visits)
    past = pa.array(ranges(rows - num_history, num_history))
    told = pa.StructArray.from_arrays([whole(visits[kind]).take(past) for kind in KINDS], names=list(KINDS))
    columns = {name: current[name] for name in SAMPLE_SCHEMA.names if name in current.column_names}
    columns["sample_id"] = _sample_ids(current)
    columns["prior_visits"] = pa.array(prior_visits[rows], pa.int32())
    columns["history"] = pa.ListArray.from_arrays(offsets_of(num_history), told)
    columns["prompt"] = render_prompts(texts, current, rows, num_history, prompt)
    return pa.table(columns).select(SAMPLE_SCHEMA.names).cast(SAMPLE_SCHEMA)

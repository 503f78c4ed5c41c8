"""From visits to samples: what a model is asked and what the answer was. Pure functions on Arrow tables."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import pyarrow as pa

from leader_platform.config import DataConfig, PromptConfig
from leader_platform.data.prompts import render_prompt
from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord
from leader_platform.data.vocabulary import Vocabulary

SPLITS = ("train", "validation", "test")

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
) -> tuple[pa.Table, Counter]:
    """The samples of whole patients, whose visits lie together in time order, and a tally.

    Rows stand in an order that is random and always the same, so that a trainer that reads them in order is not shown
    one patient's visits together. `labels` are the visit's labels that the training split knows; a visit with none
    of them asks a question that has no answer, and is counted instead.
    """
    rows: list[dict[str, Any]] = []
    tally: Counter = Counter()
    for row in _candidates(visits.to_pylist(), data):
        known = [code for code in row["labels"] if code in vocabulary.codes["medications"]]
        tally[("labels outside the training vocabulary",)] += len(row["labels"]) - len(known)
        if not known:
            tally[("samples without a known medication",)] += 1
            continue
        row["labels"] = known
        row["prompt"] = render_prompt(PatientRecord.from_sample(row), titles, prompt)
        rows.append(row)
    rows.sort(key=lambda row: hashlib.sha256(row["sample_id"].encode()).digest())
    return pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), tally


def _candidates(visits: list[dict[str, Any]], data: DataConfig) -> Iterator[dict[str, Any]]:
    """One row a sample, the prompt still missing."""
    for subject, group in groupby(visits, key=lambda visit: visit["subject_id"]):
        stays = list(group)
        first = len(stays) - 1 if data.sample_visits == "last" else 0
        for index in range(first, len(stays)):
            stay = stays[index]
            past = stays[max(0, index - data.max_history_visits) : index]
            yield {
                "sample_id": f"{subject}-{stay['hadm_id']}",
                "subject_id": subject,
                "hadm_id": stay["hadm_id"],
                "prior_visits": index,
                "history": [{kind: visit[kind] for kind in KINDS} for visit in past],
                "diagnoses": stay["diagnoses"],
                "procedures": stay["procedures"],
                "labels": stay["labels"],
                **{name: stay[name] for name in PROFILE_FIELDS},
            }

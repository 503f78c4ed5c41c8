"""The prompts of `prompts.render_prompt` for a whole table of samples at once: each visit's text is made once and
joined for every sample that tells it, in Arrow kernels. A property test holds the two to the same text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_platform.config import PromptConfig
from leader_platform.data.lists import Integers, fill, map_values, offsets_of, ranges, whole
from leader_platform.data.prompts import (
    CONDITIONS,
    CURRENT_VISIT,
    NOTHING,
    NUM_VISITS,
    PAST_VISIT,
    QUESTION,
    profile_sentence,
    title_of,
)
from leader_platform.data.records import KINDS


def visit_texts(visits: pa.Table, titles: Mapping[str, str]) -> pa.Table:
    """For each visit the text of its `conditions` and of its `medications`, as a prompt tells them."""
    told = {kind: _titles(whole(visits[kind]), titles) for kind in KINDS}
    conditions = fill(CONDITIONS, diagnoses=told["diagnoses"], procedures=told["procedures"])
    return pa.table({"conditions": conditions, "medications": told["medications"]})


def render_prompts(
    texts: pa.Table, current: pa.Table, rows: Integers, num_history: Integers, config: PromptConfig
) -> pa.Array:
    """The prompts of samples whose current visits are `rows` [samples] of `texts`, the `num_history` [samples] rows
    before each being its history; `current` holds the samples' profiles."""
    num_told = np.minimum(num_history, config.history_visits)
    past = ranges(rows - num_told, num_told)
    told = texts.take(pa.array(past))
    numbers = ranges(num_history - num_told + 1, num_told)
    sentences = fill(
        PAST_VISIT,
        number=_text(numbers),
        conditions=whole(told["conditions"]),
        medications=whole(told["medications"]),
    )
    history = pc.binary_join(pa.ListArray.from_arrays(offsets_of(num_told), sentences), " ")
    parts = [
        *([_profiles(current)] if config.profile else []),
        fill(NUM_VISITS, number=_text(num_history)),
        history,
        fill(CURRENT_VISIT, conditions=whole(texts["conditions"].take(pa.array(rows)))),
    ]
    nothing = pa.scalar(None, pa.string())
    spoken = [pc.if_else(pc.equal(part, ""), nothing, part) for part in parts]
    return pc.binary_join_element_wise(*spoken, QUESTION, " ", null_handling="skip")


def _titles(codes: pa.ListArray, titles: Mapping[str, str]) -> pa.Array:
    values = pc.list_flatten(codes).dictionary_encode()
    names = pa.array([title_of(code, titles) for code in values.dictionary.to_pylist()], pa.string())
    joined = pc.binary_join(map_values(codes, names.take(values.indices)), ", ")
    return pc.if_else(pc.equal(joined, ""), NOTHING, joined)


def _text(numbers: Integers) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _profiles(current: pa.Table) -> pa.Array:
    known = pa.StructArray.from_arrays([whole(current[name]) for name in ("gender", "age")], names=["gender", "age"])
    return pa.array([profile_sentence(profile) for profile in known.to_pylist()], pa.string())

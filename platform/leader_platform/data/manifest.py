"""What a data set's manifest says of its making: every filter's count, the coverage of the drug mapping, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leader_platform.config import LeaderConfig
from leader_platform.data.cohort import FLOW
from leader_platform.data.dataset import FORMAT_VERSION
from leader_platform.data.records import KINDS
from leader_platform.data.samples import SPLITS
from leader_platform.data.vocabulary import SPECIAL, Vocabulary

# Every option of the cohort and what it removes, by the key of `DataConfig`.
_REMOVES = {
    "label_window_hours": "mapped prescription rows from the labels",
    "require_procedures": "visits",
    "min_visits": "visits",
    "min_code_count": "distinct codes from the vocabulary",
    "sample_visits": "visits from the samples, which stay as history",
    "max_history_visits": "visits from the histories of samples",
    "train_icd_version": "visits from the samples of training and validation",
}
_MOST_FREQUENT = 20


@dataclass(frozen=True)
class Counted:
    """What the stages counted: the summed tally, the split, and how many visits of each split have each value."""

    tally: Counter
    split: Mapping[int, str]
    values: Mapping[str, Counter]
    vocabulary: Vocabulary


def manifest(source: str, config: LeaderConfig, counted: Counted) -> dict[str, Any]:
    """The manifest as far as it follows from settings and counts, JSON-able."""
    tally, every_value = counted.tally, sum(counted.values.values(), Counter())
    window = config.data.label_window_hours
    num_visits = tally[("flow", FLOW[-1])]
    return {
        "format_version": FORMAT_VERSION,
        "source": source,
        "data_config": config.data.model_dump(mode="json"),
        "prompt_config": config.prompt.model_dump(mode="json"),
        "label_window": "whole stay" if window is None else f"first {window:g} hours",
        "flow": {step: tally[("flow", step)] for step in FLOW},
        "options": _options(config, counted),
        "left_out": _named(tally, "left out") | _left_out_by_split(tally),
        "patients": len(counted.split),
        "splits": _splits(counted),
        "vocabulary": _vocabulary_sizes(counted.vocabulary),
        "distinct_codes": {kind: sum(key[0] == kind for key in every_value) for kind in KINDS},
        "mean_codes_per_visit": {
            kind: sum(count for key, count in every_value.items() if key[0] == kind) / num_visits for kind in KINDS
        },
        "coverage": _coverage(tally),
    }


def fold_manifest(whole: dict[str, Any], counted: Counted) -> dict[str, Any]:
    """The manifest of the same visits split in another way: that of the `whole`, with what follows from the split."""
    return {
        **whole,
        "left_out": whole["left_out"] | _left_out_by_split(counted.tally),
        "splits": _splits(counted),
        "vocabulary": _vocabulary_sizes(counted.vocabulary),
    }


def fault_warnings(tally: Counter) -> list[str]:
    """A sentence for each kind of fault in the raw tables, in alphabetical order."""
    faults = sorted(_named(tally, "fault").items())
    return [f"{reason} ({count:,} {'row' if count == 1 else 'rows'})." for reason, count in faults]


def _named(tally: Counter, name: str) -> dict[str, int]:
    return {key[1]: count for key, count in sorted(tally.items()) if key[0] == name}


def _options(config: LeaderConfig, counted: Counted) -> list[dict[str, Any]]:
    removed = _named(counted.tally, "removed")
    train = counted.values["train"]
    removed["data.min_code_count"] = sum(
        key[0] in KINDS and count < config.data.min_code_count for key, count in train.items()
    )
    settings = config.data.model_dump(mode="json")
    return [
        {
            "option": f"data.{name}",
            "value": settings[name],
            "removes": what,
            "count": removed.get(f"data.{name}", 0),
        }
        for name, what in _REMOVES.items()
    ]


def _left_out_by_split(tally: Counter) -> dict[str, int]:
    keys = (("labels outside the training vocabulary",), ("samples without a known medication",))
    return {key[0]: tally[key] for key in keys}


def _vocabulary_sizes(vocabulary: Vocabulary) -> dict[str, int]:
    return {kind: len(codes) - len(SPECIAL) for kind, codes in vocabulary.codes.items()}


def _splits(counted: Counted) -> dict[str, dict[str, int]]:
    patients, tally = Counter(counted.split.values()), counted.tally
    return {
        name: {
            "patients": patients[name],
            "samples": tally[("samples", name)],
            "first_visits": tally[("first visits", name)],
        }
        for name in SPLITS
    }


def _coverage(tally: Counter) -> dict[str, Any]:
    mapped_by, unmapped = _named(tally, "mapped by"), Counter(_named(tally, "unmapped"))
    return {
        "prescription_rows": tally[("prescription rows",)],
        "mapped_rows": sum(mapped_by.values()),
        "mapped_by": mapped_by,
        "unmapped_names": len(unmapped),
        "most_frequent_unmapped": dict(unmapped.most_common(_MOST_FREQUENT)),
    }

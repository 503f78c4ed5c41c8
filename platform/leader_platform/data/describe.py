"""What a prepared data set holds, in numbers: one pass over visits and samples, a batch of them in memory at a time.

A *tally* is a `Counter` as in `cohort`: tallies of batches add up to the data set's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leader_platform import storage
from leader_platform.data.dataset import PreparedData
from leader_platform.data.prescribed_interactions import (
    LEVELS,
    InteractionStatistics,
    ListedPairs,
    interaction_statistics,
    interaction_tally,
)
from leader_platform.data.records import KINDS, PROFILE_FIELDS
from leader_platform.data.samples import SPLITS
from leader_platform.data.vocabulary import profile_value
from leader_platform.errors import UserError

BATCH_ROWS = 20_000
LISTS = (*KINDS, "labels")

_VISIT_COLUMNS = ["visit_number", *LISTS, "substances", *PROFILE_FIELDS, "year"]
_SAMPLE_COLUMNS = ["prior_visits", "labels"]


@dataclass(frozen=True)
class Distribution:
    """How many visits or patients have each whole number of something, smallest number first."""

    counts: dict[int, int]
    mean: float
    median: float
    maximum: int

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> Distribution:
        """From value -> how often, at least one of them more than never."""
        values = np.array(sorted(value for value in counts if counts[value]))
        weights = np.array([counts[value] for value in values])
        ends, total = np.cumsum(weights), int(weights.sum())
        middle = values[np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")]
        return cls(
            counts=dict(zip(values.tolist(), weights.tolist(), strict=True)),
            mean=float((values * weights).sum() / total),
            median=float(middle.mean()),
            maximum=int(values[-1]),
        )


@dataclass(frozen=True)
class SplitStatistics:
    """The samples of one split; a label is a medication class that is to be recommended."""

    samples: int
    first_visits: int
    labels: int
    distinct_labels: int
    mean_prior_visits: float

    @property
    def mean_labels(self) -> float:
        return self.labels / self.samples


@dataclass(frozen=True)
class Description:
    """The statistics of a prepared data set. Mappings of counts begin with the largest.

    `medications` are visits by class. `patients_by` has, for each profile field and "year", patients by value at their
    first visit, "" where it is not recorded; ages are in bands, and the year is the calendar's, as far as it is known.
    """

    visits: int
    patients: int
    visits_per_patient: Distribution
    codes_per_visit: dict[str, Distribution]
    medications: dict[str, int]
    patients_by: dict[str, dict[str, int]]
    splits: dict[str, SplitStatistics]
    interactions: dict[str, InteractionStatistics]


def describe(data: PreparedData) -> Description:
    """The statistics of a prepared data set, in memory that does not grow with it.

    Raises `UserError` when a file cannot be read, or when the visits are not as many as the manifest says.
    """
    listed = [ListedPairs.of(data.interactions, level) for level in LEVELS]
    tally: Counter = Counter()
    for part in storage.list_files(storage.join(data.uri, "visits"), ".parquet"):
        for batch in _batches(part, _VISIT_COLUMNS):
            tally.update(visit_tally(batch, listed))
    for split in SPLITS:
        for part in data.sample_parts(split):
            for batch in _batches(part, _SAMPLE_COLUMNS):
                tally.update(sample_tally(batch, split))
    _check(data, tally)
    return description(tally, listed)


def _batches(part: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    file_system, path = storage.filesystem(part)
    try:
        with file_system.open_input_file(path) as file:
            yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{part} cannot be read ({error}); prepare the data set again.") from None


def _check(data: PreparedData, tally: Counter) -> None:
    """A folder that was copied in part must not be described as if it were whole."""
    found = {"visits": tally[("visits",)]} | {f"{split} samples": tally[("samples", split)] for split in SPLITS}
    told = {"visits": [*data.manifest["flow"].values()][-1]} | {
        f"{split} samples": data.manifest["splits"][split]["samples"] for split in SPLITS
    }
    for name, count in told.items():
        if found[name] != count:
            raise UserError(
                f"{data.uri} holds {found[name]} {name} and its manifest says {count}; "
                "copy it again whole, or prepare it again."
            )


# --- batches -> tallies ----------------------------------------------------------------------------------------------


def visit_tally(visits: pa.RecordBatch, listed: Sequence[ListedPairs]) -> Counter:
    """The counts of a batch of visits, of whichever patients and in any order."""
    tally: Counter = Counter({("visits",): len(visits)})
    tally.update(_counts(visits["visit_number"], "visit number"))
    for name in LISTS:
        tally.update(_counts(pc.list_value_length(visits[name]), "per visit", name))
    tally.update(_counts(pc.list_flatten(visits["medications"]), "medication"))
    first = visits.filter(pc.equal(visits["visit_number"], 1))
    for name in (*PROFILE_FIELDS, "year"):
        for (value,), count in _counts(first[name]).items():
            tally[("first visit", name, profile_value(name, value))] += count
    for pairs in listed:
        tally.update(interaction_tally(visits, pairs))
    return tally


def sample_tally(samples: pa.RecordBatch, split: str) -> Counter:
    """The counts of a batch of a split's samples."""
    tally = Counter({("samples", split): len(samples)})
    tally[("first visits", split)] = pc.sum(pc.equal(samples["prior_visits"], 0)).as_py()
    tally[("prior visits", split)] = pc.sum(samples["prior_visits"]).as_py()
    tally.update(_counts(pc.list_flatten(samples["labels"]), "label", split))
    return tally


def _counts(values: pa.Array, *key: str) -> Counter:
    """How often each value occurs, under `(*key, value)`."""
    return Counter({(*key, row["values"]): row["counts"] for row in pc.value_counts(values).to_pylist()})


# --- tally -> description --------------------------------------------------------------------------------------------


def description(tally: Counter, listed: Sequence[ListedPairs]) -> Description:
    """The statistics that a whole data set's tally amounts to; it holds a visit at least."""
    reached = _under(tally, "visit number")  # as many patients have n visits or more as there are n-th visits
    exactly = {number: count - reached.get(number + 1, 0) for number, count in reached.items()}
    return Description(
        visits=tally[("visits",)],
        patients=reached[1],
        visits_per_patient=Distribution.of(exactly),
        codes_per_visit={name: Distribution.of(_under(tally, "per visit", name)) for name in LISTS},
        medications=_under(tally, "medication"),
        patients_by={name: _under(tally, "first visit", name) for name in (*PROFILE_FIELDS, "year")},
        splits={split: _split_statistics(tally, split) for split in SPLITS},
        interactions={pairs.level: interaction_statistics(tally, pairs) for pairs in listed if pairs.rows},
    )


def _under(tally: Counter, *key: str) -> dict[Any, int]:
    """The counts of keys `(*key, item)` by item, the largest first and items of equal count in order."""
    found = {item[-1]: count for item, count in tally.items() if item[:-1] == key}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _split_statistics(tally: Counter, split: str) -> SplitStatistics:
    labels = _under(tally, "label", split)
    samples = tally[("samples", split)]
    return SplitStatistics(
        samples=samples,
        first_visits=tally[("first visits", split)],
        labels=sum(labels.values()),
        distinct_labels=len(labels),
        mean_prior_visits=tally[("prior visits", split)] / samples,
    )

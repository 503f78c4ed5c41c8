"""Assembled visits and a split by patient -> vocabulary and samples: the last half of preparing, which folds repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leader_jobs.tasks import on_each
from leader_platform import storage
from leader_platform.config import DataConfig, LeaderConfig
from leader_platform.data.records import KINDS, PROFILE_FIELDS
from leader_platform.data.samples import SPLITS, samples, teaches
from leader_platform.data.tallies import Tally, plain, tally_of
from leader_platform.data.vocabulary import Vocabulary, count_values
from leader_platform.errors import UserError
from leader_platform.progress import Progress

Split = dict[int, str]  # subject -> "train", "validation" or "test"
UNUSED = "unused"  # beside the splits: visits of training and validation patients that may not teach


def count_split_values(
    parts: Sequence[str], split: Split, config: DataConfig, out: str, progress: Progress
) -> dict[str, Counter]:
    """`count_values` of each split's visits and of `UNUSED` ones; they lie in the files `parts`, and the data set is to
    lie at `out`."""
    import ray

    shared_split: Any = ray.put(split)

    def count(part: str) -> dict[str, Any]:
        visits = storage.read_parquet(part, columns=["subject_id", *KINDS, *PROFILE_FIELDS])
        names = _names_of(ray.get(shared_split), visits, config)
        return {name: plain(count_values(visits.filter(pc.equal(names, name)))) for name in (*SPLITS, UNUSED)}

    values = {name: Counter[Any]() for name in (*SPLITS, UNUSED)}
    with progress.task("Counting codes", len(parts), "shards") as task:
        answers = on_each(count, parts, out, task)
    for answer in answers:
        for name in values:
            values[name].update(tally_of(answer[name]))
    return values


def write_samples(
    parts: Sequence[str],
    split: Split,
    vocabulary: Vocabulary,
    titles: dict[str, str],
    config: LeaderConfig,
    directory: str,
    out: str,
    progress: Progress,
) -> Tally:
    """Write the samples of the visits in `parts` to `directory`/<split>/, a file for each file of visits.

    Returns the tally with the number of samples and of first visits a split; `UserError` for a split without a sample.
    """
    import ray

    shared: Any = ray.put((split, vocabulary, titles))

    def ask(part: str) -> dict[str, Any]:
        split, vocabulary, titles = ray.get(shared)
        table, tally = samples(storage.read_parquet(part), vocabulary, titles, config.data, config.prompt)
        names = _names_of(split, table, config.data)
        tally[("removed", "data.train_icd_version")] += pc.sum(pc.equal(names, UNUSED)).as_py() or 0
        for name in SPLITS:
            chosen = table.filter(pc.equal(names, name))
            tally[("samples", name)] += len(chosen)
            tally[("first visits", name)] += pc.sum(pc.equal(chosen["prior_visits"], 0)).as_py() or 0
            if len(chosen):
                storage.write_parquet(storage.join(directory, name, part.rsplit("/", 1)[-1]), chosen)
        return {"tally": plain(tally)}

    total: Tally = Counter()
    with progress.task("Writing samples", len(parts), "shards") as task:
        answers = on_each(ask, parts, out, task)
    for answer in answers:
        total += tally_of(answer["tally"])
    for name in SPLITS:
        if not total[("samples", name)]:
            raise UserError(f"The {name} split has no sample; give more patients, or change the splits' fractions.")
    return total


def _names_of(split: Split, rows: pa.Table, config: DataConfig) -> pa.Array:
    """The split of each row's patient, or `UNUSED`."""
    names = pa.array(map(split.__getitem__, rows["subject_id"].to_pylist()), pa.string())
    used = pc.or_(pa.array(teaches(rows, config)), pc.equal(names, "test"))
    return pc.if_else(used, names, UNUSED)

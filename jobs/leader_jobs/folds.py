"""A fold of a cross-validation as a data set of its own, so that every stage runs on it as on any other.

visits of a data set --split, count--> vocabulary of the fold's training patients --ask--> its samples
"""

from __future__ import annotations

import pyarrow.compute as pc

from leader_jobs.splits import Split, count_split_values, write_samples
from leader_platform import storage
from leader_platform.config import DataConfig, LeaderConfig, PromptConfig, fingerprint
from leader_platform.data.dataset import PreparedData, is_data_set
from leader_platform.data.folds import fold_split
from leader_platform.data.manifest import Counted, fold_manifest
from leader_platform.data.vocabulary import fit_vocabulary
from leader_platform.progress import Progress

COPIED = ("titles.parquet", "interactions.parquet")


def fold_data(
    data: PreparedData, fold: int, num_folds: int, seed: int, directory: str, progress: Progress
) -> PreparedData:
    """The data set of one fold at `directory`, made from the visits of `data` unless it is there already.

    Runs on the Ray that is connected. Its `visits/` stay where they are: only split, vocabulary and samples differ.
    """
    split = fold_split(_subjects(data), fold, num_folds, data.manifest["data_config"]["validation_fraction"], seed)
    identity = fingerprint(data.fingerprint, sorted(split.items()))
    if is_data_set(directory) and PreparedData(directory).fingerprint == identity:
        return PreparedData(directory)
    config = LeaderConfig(
        data=DataConfig.model_validate(data.manifest["data_config"]),
        prompt=PromptConfig.model_validate(data.manifest["prompt_config"]),
    )
    with storage.room_for(directory), storage.staged_directory(directory) as staging:
        counted = _write(data, split, config, staging, directory, progress)
        for name in COPIED:
            storage.write_bytes(storage.join(staging, name), storage.read_bytes(storage.join(data.uri, name)))
        about = {"fingerprint": identity, "fold": {"number": fold, "of": num_folds, "seed": seed, "visits": data.uri}}
        storage.write_json(storage.join(staging, "manifest.json"), fold_manifest(data.manifest, counted) | about)
    return PreparedData(directory)


def _subjects(data: PreparedData) -> list[int]:
    """The patients of a data set."""
    parts = (storage.read_parquet(part, ["subject_id"])["subject_id"] for part in data.visit_parts())
    return [subject for part in parts for subject in pc.unique(part).to_pylist()]


def _write(
    data: PreparedData, split: Split, config: LeaderConfig, staging: str, directory: str, progress: Progress
) -> Counted:
    """Vocabulary and samples of the fold into `staging`; what was counted on the way."""
    values = count_split_values(data.visit_parts(), split, config.data, directory, progress)
    vocabulary = fit_vocabulary(values["train"], config.data.min_code_count)
    storage.write_json(storage.join(staging, "vocabulary.json"), vocabulary.model_dump())
    samples = storage.join(staging, "samples")
    tally = write_samples(data.visit_parts(), split, vocabulary, data.titles, config, samples, directory, progress)
    return Counted(tally, split, values, vocabulary)

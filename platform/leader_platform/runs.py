"""Runs beside each other: what a directory of runs holds, and what two of them differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pyarrow import fs as pafs

from leader_platform import storage
from leader_platform.artifacts import EVALUATION, FEATURES, STAGES, STUDENT, STUDENT_ALONE, TEACHER, Run, require_object
from leader_platform.config import EvaluateConfig
from leader_platform.errors import UserError
from leader_platform.evaluation.statistics import bootstrap, membership
from leader_platform.evaluation_tables import ALL, METRICS, PAIRED

METRICS_FILE, SAMPLES_FILE = "metrics.json", "samples.parquet"

# The products that decide a section of the configuration, the first that there is; the newest decides the others.
_DECIDE = {
    "prompt": (TEACHER,),
    "teacher": (TEACHER,),
    "features": (FEATURES,),
    "student": (STUDENT, STUDENT_ALONE),
    "evaluate": (EVALUATION,),
}
_FREE = {"bootstrap_replicates"}  # entries of a protocol that change neither samples nor what is measured of them

Values = list[float] | None  # a metric's value, low and high end


@dataclass(frozen=True)
class RunSummary:
    """What a list tells of a run: when each product was finished (ISO 8601), each model's metrics over all samples, and
    what cannot be told of it."""

    run: str
    recipe: str | None
    stages: dict[str, str]
    metrics: dict[str, dict[str, Values]]
    remark: str | None = None

    @property
    def finished_at(self) -> str:
        """Of the newest product; empty where there is none that can be read."""
        return max(self.stages.values(), default="")


@dataclass(frozen=True)
class Comparison:
    """What two runs differ in, the first run's value before the second's."""

    runs: tuple[str, str]
    configuration: dict[str, tuple[Any, Any]]  # dotted key -> both values, None where a run has none
    metrics: dict[str, dict[str, tuple[Values, Values]]]  # model -> metric -> over all samples
    paired: dict[str, dict[str, Values]]  # model -> metric -> what the second run has over the first
    remark: str | None  # why nothing is paired


# --- reading ---------------------------------------------------------------------------------------------------------


def summaries(directory: str) -> list[RunSummary]:
    """The runs in a directory or URI, the last one finished at the end. `UserError` where there is no directory."""
    file_system, path = storage.filesystem(directory)
    if file_system.get_file_info(path).type != pafs.FileType.Directory:
        raise UserError(f"There is no directory {directory} of runs; `leader train` makes a run, or name another one.")
    entries = file_system.get_file_info(pafs.FileSelector(path))
    names = [entry.base_name for entry in entries if entry.type == pafs.FileType.Directory]
    runs = [Run(storage.join(directory, name)) for name in names]
    found = [summary(run) for run in runs if _products(run)]
    return sorted(found, key=lambda told: (told.finished_at, told.run))


def summary(run: Run) -> RunSummary:
    """What a list tells of a run; a run that cannot be read is told with a remark, so that others are told too."""
    try:
        stages = {stage: run.manifest(stage)["finished_at"] for stage in _products(run)}
        recipe = configuration(run)["recipe"]
    except UserError as error:
        return RunSummary(run.uri, None, {}, {}, str(error))
    if EVALUATION not in stages:
        return RunSummary(run.uri, recipe, stages, {})
    try:
        models = evaluation(run)["models"]
    except UserError as error:
        return RunSummary(run.uri, recipe, stages, {}, str(error))
    metrics = {name: {metric: groups[ALL].get(metric) for metric in METRICS} for name, groups in models.items()}
    return RunSummary(run.uri, recipe, stages, metrics)


def _products(run: Run) -> list[str]:
    return [stage for stage in STAGES if run.has(stage)]


def evaluation(run: Run) -> dict[str, Any]:
    """`evaluation/metrics.json`. `UserError` for a run without one of today's shape."""
    if not _products(run):
        raise UserError(f"{run.uri} is not a run; `leader runs list` shows those there are.")
    command = f"leader evaluate --run {quote(run.uri)}"
    if not run.has(EVALUATION):
        raise UserError(f"The run {run.uri} was never evaluated; do so with `{command}`.")
    path = run.path(EVALUATION, METRICS_FILE)
    try:
        result = require_object(storage.read_json(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); evaluate the run again with `{command} --force`.") from None
    if "protocol" not in result:
        raise UserError(
            f"The run {run.uri} was evaluated by an older version; evaluate it again with `{command} --force`."
        )
    return result


def configuration(run: Run) -> dict[str, Any]:
    """The configuration of a run, each section from the product that it decided."""
    finished = {stage: run.manifest(stage)["finished_at"] for stage in _products(run)}
    values = _configuration_of(run, max(finished, key=lambda stage: finished[stage]))
    for section, stages in _DECIDE.items():
        decided = [stage for stage in stages if stage in finished]
        if decided:
            values[section] = _configuration_of(run, decided[0])[section]
    return values


def _configuration_of(run: Run, stage: str) -> dict[str, Any]:
    path = run.path(stage, "configuration.yaml")
    try:
        return require_object(yaml.safe_load(storage.read_bytes(path)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read ({' '.join(str(error).split())}); run the stage again with --force."
        ) from None


def compare(first: Run, second: Run) -> Comparison:
    """What two evaluated runs differ in. `UserError` for one that is not a run or was not evaluated."""
    results = evaluation(first), evaluation(second)
    paired, remark = _paired(first, second, results[0]["protocol"], results[1]["protocol"])
    return Comparison(
        (first.uri, second.uri),
        differing(flat(configuration(first)), flat(configuration(second))),
        both_metrics(results[0]["models"], results[1]["models"]),
        paired,
        remark,
    )


def _paired(
    first: Run, second: Run, protocol: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Values]], str | None]:
    """The paired differences, or why there are none."""
    differ = sorted(set(differing(protocol, other)) - _FREE)
    if differ:
        return {}, f"Nothing is paired, since the protocols differ in {', '.join(differ)}."
    tables = []
    for run in (first, second):
        path = run.path(EVALUATION, SAMPLES_FILE)
        if not storage.exists(path):
            return {}, f"Nothing is paired, since {run.uri} keeps no metrics of single samples; evaluate it again."
        tables.append(storage.read_parquet(path))
    paired = paired_differences(tables[0], tables[1], protocol["bootstrap_replicates"])
    return paired, None if paired else "Nothing is paired, since the runs judge no model on the same samples."


# --- comparing -------------------------------------------------------------------------------------------------------


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of each key in which two mappings differ; a missing one is None."""
    return {key: (first.get(key), second.get(key)) for key in {**first, **second} if first.get(key) != second.get(key)}


def both_metrics(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, tuple[Values, Values]]]:
    """Of every model that either evaluation has, each metric over all samples in both."""
    return {
        name: {
            metric: (first.get(name, {}).get(ALL, {}).get(metric), second.get(name, {}).get(ALL, {}).get(metric))
            for metric in METRICS
        }
        for name in {**first, **second}
    }


def paired_differences(first: pa.Table, second: pa.Table, num_replicates: int) -> dict[str, dict[str, Values]]:
    """What each model of both tables has in the second over the first, with 95 % intervals by patient.

    The tables have a row a model and sample: `sample_id`, `subject_id`, `model` and a column for each of `PAIRED`, NaN
    where it has no meaning. A model is left out where the samples are not the same.
    """
    found = {}
    for model in pc.unique(first["model"]).to_pylist():
        tables = [_of_model(table, model) for table in (first, second)]
        if tables[0]["sample_id"].equals(tables[1]["sample_id"]):
            found[model] = _paired_difference(tables[0], tables[1], num_replicates)
    return found


def _of_model(samples: pa.Table, model: str) -> pa.Table:
    return samples.filter(pc.field("model") == model).sort_by("sample_id").combine_chunks()


def _paired_difference(first: pa.Table, second: pa.Table, num_replicates: int) -> dict[str, Values]:
    patients = np.unique(first["subject_id"].to_numpy(), return_inverse=True)[1]
    by_patient = membership(patients, np.ones(len(first), dtype=bool))
    sums = [by_patient @ _statistics(samples) for samples in (first, second)]
    before, after = bootstrap(sums, _means, num_replicates, EvaluateConfig().bootstrap_seed)
    return dict(zip(PAIRED, (after - before).intervals(), strict=True))


def _statistics(samples: pa.Table) -> np.ndarray:
    """Each of `PAIRED`, 0 where it has no meaning, and whether it has one; float32 [samples, columns]."""
    values = np.stack([samples[metric].to_numpy() for metric in PAIRED], axis=1)
    return np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1, dtype=np.float32)


def _means(sums: np.ndarray) -> np.ndarray:
    above, below = np.split(sums, 2, axis=-1)
    with np.errstate(invalid="ignore"):
        return above / below

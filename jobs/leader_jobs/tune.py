"""Stage `tune`: Ray Tune searches the student's settings; ASHA ends the trials that fall behind.

    samples + features --once--> object store --epochs of each trial--> tune/best.yaml, tune/trials.parquet

The settings to try are drawn here, before anything runs, so that a search is repeated and resumed by its seed. The
first trial has the configuration's own: a search never ends with worse on validation than it began with.
"""

from __future__ import annotations

from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from leader_jobs import pipeline
from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig, StudentConfig, TuneConfig, fingerprint, to_yaml
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import RunError, UserError
from leader_platform.progress import Progress

TUNE = "tune"
RECIPE_FILE, TRIALS_FILE = "best.yaml", "trials.parquet"
Settings = dict[str, Any]


def draw_settings(student: StudentConfig, search: TuneConfig, num_trials: int) -> list[Settings]:
    """The settings of each trial, the configuration's own first. `UserError` where two drawn together do not fit."""
    rng = np.random.default_rng(search.seed)
    tables = (search.uniform, search.loguniform, search.choice)
    own = student.model_dump(mode="json")
    drawn = [{name: own[name] for table in tables for name, domain in table.items() if domain is not None}]
    for _ in range(num_trials - 1):
        settings: Settings = {name: rng.uniform(*ends) for name, ends in search.uniform.items() if ends}
        settings |= {name: _log_uniform(rng, *ends) for name, ends in search.loguniform.items() if ends}
        settings |= {name: values[rng.integers(len(values))] for name, values in search.choice.items() if values}
        drawn.append(settings)
    for settings in drawn:
        with_settings(student, settings)
    return drawn


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def with_settings(student: StudentConfig, settings: Settings) -> StudentConfig:
    """The student's configuration with some settings changed; `UserError` when it is not valid."""
    try:
        return StudentConfig.model_validate(student.model_dump(mode="json") | settings)
    except ValidationError as error:
        told = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise UserError(f"The search may draw {told}, which is not valid: {error.errors()[0]['msg']}.") from None


def tune_key(data: PreparedData, run: Run, config: LeaderConfig, num_trials: int) -> str:
    """A digest of everything that decides a search, the very products it reads included: none goes on with others."""
    search = config.tune.model_dump(mode="json", exclude={"cpus_per_trial"})
    upstream = [run.manifest(product)["id"] for product in _made_from(config)]
    return fingerprint(TUNE, search, num_trials, pipeline.stage_key("distill", data, config), upstream)


def _made_from(config: LeaderConfig) -> tuple[str, ...]:
    return tuple(pipeline.STAGES[need].product for need in pipeline.needs("distill", config))


def check(
    data: PreparedData, run: Run, config: LeaderConfig, num_trials: int, *, resume: bool, only: bool
) -> list[str]:
    """The stages that must run first. `UserError` for what would fail; nothing is started."""
    if num_trials < 1:
        raise UserError(f"A search of {num_trials} trials finds nothing; give --trials 1 or more.")
    draw_settings(config.student, config.tune, num_trials)
    missing = [
        name for name in pipeline.plan("distill", data, run, config, force=False, only=False) if name != "distill"
    ]
    if missing and only:
        raise UserError(
            f"The search needs the products of {', '.join(missing)}, which {run.uri} does not have for these settings; "
            f"run `leader train --stage distill --data {quote(data.uri)} --run {quote(run.uri)}` first, "
            "or leave out --only."
        )
    if resume and not missing and not storage.exists(run.scratch(TUNE, tune_key(data, run, config, num_trials))):
        raise UserError(
            f"{run.uri} has no interrupted search with these settings and {num_trials} trials to go on from; "
            "leave out --resume."
        )
    return missing


def tune_student(
    data: PreparedData, run: Run, config: LeaderConfig, num_trials: int, progress: Progress, *, resume: bool, only: bool
) -> None:
    """Search, and write the run's `tune/`: the best configuration as a recipe file, and a table of all trials."""
    from leader_jobs.trials import run_trials

    missing = check(data, run, config, num_trials, resume=resume, only=only)
    if missing:
        progress.log(f"Stages to run before the search: {', '.join(missing)}.")
    for name in missing:
        pipeline.run_stage(name, data, run, config, resume, progress)
    key = tune_key(data, run, config, num_trials)
    drawn = draw_settings(config.student, config.tune, num_trials)
    scratch = run.scratch(TUNE, key)
    rows = run_trials(data, run, config, drawn, scratch, resume and not missing, progress)
    best = max(rows, key=lambda row: row["best_prauc"])
    if best["epochs"] == 0:
        raise RunError(f"No trial ended an epoch; the first failed with: {rows[0]['failure']}")
    chosen = config.model_copy(update={"student": with_settings(config.student, drawn[best["trial"] - 1])})
    about = {"trials": num_trials, "best": best, "data": data.fingerprint}
    with run.product(TUNE, key, config, about, _made_from(config)) as directory:
        storage.write_bytes(storage.join(directory, RECIPE_FILE), to_yaml(chosen).encode())
        storage.write_parquet(storage.join(directory, TRIALS_FILE), pa.Table.from_pylist(rows))
    storage.remove(scratch)
    progress.log(f"Best of {num_trials} trials: trial {best['trial']}, validation PRAUC {best['best_prauc']:.4f}.")

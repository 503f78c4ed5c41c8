"""The trials of a search as Ray Tune runs them: each trains a student, several at a time, on one copy of the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from leader_jobs.distill import code_book
from leader_jobs.student_fit import FEATURE_COLUMNS, Examples, StudentTraining, require_usable
from leader_jobs.tokens import SAMPLE_COLUMNS
from leader_jobs.training import class_frequency
from leader_jobs.tune import Settings, with_settings
from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.vocabulary import Vocabulary
from leader_platform.errors import UserError
from leader_platform.features import probabilities, read_features
from leader_platform.models.code_book import CodeBook
from leader_platform.progress import Progress, Task

# What Tune maximises: the best validation PRAUC of a trial's epochs so far, whose weights a training would keep.
_OBJECTIVE = "best_prauc"
_PROGRESS = "progress"


def run_trials(
    data: PreparedData,
    run: Run,
    config: LeaderConfig,
    drawn: list[Settings],
    directory: str,
    resume: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A trial for each of the settings; one row a trial, in their order. `directory` holds what can be resumed."""
    _set_up_tune()
    num_concurrent = _num_concurrent(config.tune.cpus_per_trial)
    progress.log(f"Searching over {', '.join(drawn[0])}: {len(drawn)} trials, {num_concurrent} at a time")
    with progress.task("Search", len(drawn), "trials") as task:
        trial = _trial_on(data, run, config, drawn, directory)
        _Lines.tell, _Lines.task, _Lines.num_trials = progress.log, task, len(drawn)
        tuner = (
            tune.Tuner.restore(directory, trial, resume_errored=True)
            if resume
            else _tuner(trial, config, len(drawn), num_concurrent, directory)
        )
        results = tuner.fit()
    rows = [_row(results[index], drawn) for index in range(len(results))]
    return sorted(rows, key=lambda row: row["trial"])


def _set_up_tune() -> None:
    # Tune would take Ctrl-C for the end of the search and return as if it were done.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Its tables and tracebacks would stand between our lines; what failed is told in one, and in the table of trials.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _num_concurrent(cpus_per_trial: float) -> int:
    """How many trials the cluster's nodes have room for."""
    slots = sum(int(node["Resources"].get("CPU", 0) // cpus_per_trial) for node in ray.nodes() if node["Alive"])
    if not slots:
        raise UserError(
            f"A trial needs {cpus_per_trial:g} CPU and no node of the cluster has as many; lower tune.cpus_per_trial."
        )
    return slots


def _trial_on(data: PreparedData, run: Run, config: LeaderConfig, drawn: list[Settings], directory: str) -> Any:
    """The trial's function with what it works on, which goes to the object store once and is shared by all trials."""
    book = code_book(data, run, config.student)
    train, validation = (
        Examples.encode([data.samples(split, SAMPLE_COLUMNS)], data.vocabulary, book)
        for split in ("train", "validation")
    )
    states, logits = (read_features(run, data, "train", column) for column in FEATURE_COLUMNS)
    train = replace(train, teacher_states=states, teacher_scores=probabilities(logits))
    require_usable(train, validation)
    given = {
        "config": config,
        "drawn": drawn,
        "vocabulary": data.vocabulary,
        "train": train,
        "validation": validation,
        "frequency": class_frequency(data).numpy(),
        "book": book,
        "directory": storage.absolute(directory),
    }
    return tune.with_resources(tune.with_parameters(student_trial, **given), {"CPU": config.tune.cpus_per_trial})


def _tuner(trial: Any, config: LeaderConfig, num_trials: int, num_concurrent: int, directory: str) -> tune.Tuner:
    storage.remove(directory)  # Tune would go on in it
    parent, name = directory.rsplit("/", 1)
    epochs = config.student.max_epochs
    scheduler = ASHAScheduler(
        time_attr="epoch",
        max_t=epochs,
        grace_period=min(config.tune.grace_epochs, epochs),
        reduction_factor=config.tune.reduction_factor,
    )
    return tune.Tuner(
        trial,
        param_space={"trial": tune.grid_search(list(range(1, num_trials + 1)))},
        tune_config=tune.TuneConfig(
            metric=_OBJECTIVE,
            mode="max",
            scheduler=scheduler,
            max_concurrent_trials=num_concurrent,
            reuse_actors=True,  # importing torch takes longer than many a trial
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=parent,
            verbose=0,
            callbacks=[_Lines()],
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )


def _name(trial: Any) -> str:
    return f"trial-{trial.config['trial']}"


class _Lines(tune.Callback):
    """A line for each trial that ends. Tune restores its callbacks from a file, so what they tell to is the class's."""

    tell: ClassVar[Callable[[str], None]]
    task: ClassVar[Task]
    num_trials: ClassVar[int]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        done = [other.last_result for other in trials if _OBJECTIVE in other.last_result]
        best = max(told[_OBJECTIVE] for told in done)
        _Lines.task.advance(best_prauc=best)
        told = trial.last_result
        how = told["failure"] or f"{'ended' if told['ended'] else 'stopped'} after {told['epoch']} epochs"
        _Lines.tell(
            f"  {_name(trial)} of {_Lines.num_trials}: {how}, PRAUC {told[_OBJECTIVE]:.4f} (best so far {best:.4f})"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _Lines.task.advance()
        _Lines.tell(f"  {_name(trial)} of {_Lines.num_trials}: its worker failed")


def _row(result: tune.Result, drawn: list[Settings]) -> dict[str, Any]:
    """A trial as a row of the table: its settings and what came of them."""
    assert result.config is not None
    told, number = result.metrics or {}, result.config["trial"]
    failure = _last_line(result.error) if result.error else told["failure"]
    return {
        "trial": number,
        **drawn[number - 1],
        "best_prauc": float(told.get(_OBJECTIVE, -1.0)),
        "epochs": int(told.get("epoch", 0)),
        "seconds": float(told.get("time_total_s", 0.0)),
        "status": "failed" if failure else "finished" if told["ended"] else "stopped",
        "failure": failure,
    }


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


# --- in a trial's worker ---------------------------------------------------------------------------------------------


def student_trial(
    chosen: dict[str, Any],
    config: LeaderConfig,
    drawn: list[Settings],
    vocabulary: Vocabulary,
    train: Examples,
    validation: Examples,
    frequency: np.ndarray,
    book: CodeBook | None,
    directory: str,
) -> None:
    """One trial: train with its settings, telling Tune of every epoch.

    It keeps its progress in a file of its own. Tune's checkpoints would be deleted before Tune notes which is the
    newest, so that a search killed between the two could not go on.
    """
    torch.set_num_threads(max(1, int(config.tune.cpus_per_trial)))
    student = with_settings(config.student, drawn[chosen["trial"] - 1])
    training = StudentTraining(
        student,
        config.evaluate,
        vocabulary,
        train,
        validation,
        torch.from_numpy(frequency.copy()),  # what comes from the object store is read-only
        book if student.wide else None,
    )

    def tell(failure: str = "") -> None:
        told = {"epoch": training.epoch, _OBJECTIVE: training.best_prauc, "ended": training.ended}
        tune.report(told | {"failure": failure})

    progress = storage.join(directory, _PROGRESS, str(chosen["trial"]))
    if storage.exists(progress):
        training.go_on_from(storage.read_bytes(progress))
        tell()  # a trial killed after its last epoch has nothing else to tell
    while not training.ended:
        try:
            training.run_epoch()
        except UserError as error:  # it diverged, as settings of a search may
            tell(str(error))
            return
        if training.epoch % student.checkpoint_epochs == 0:
            storage.write_bytes(progress, training.progress())
        tell()

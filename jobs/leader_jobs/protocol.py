"""What a protocol trains and tests on: one part for each fold and seed, every part a data set and a run of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leader_jobs.folds import fold_data
from leader_platform.artifacts import Run
from leader_platform.config import EvaluateConfig, LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.progress import Progress


@dataclass(frozen=True)
class Part:
    """One training and one test of every model. Parts of one seed test each sample at most once."""

    name: str
    seed: int
    data: PreparedData
    run: Run
    config: LeaderConfig


def parts(data: PreparedData, run: Run, config: LeaderConfig, progress: Progress) -> Iterator[Part]:
    """The parts of `config.evaluate`'s protocol, each made when it is asked for.

    The single split with one seed is the run itself. Else every part is a run within it, so that its stages, their
    products and their resumption are those of any run. Folds are the same for all seeds: a seed moves weights and the
    order of training, never a patient. Folds need a Ray that is connected.
    """
    settings = config.evaluate
    for seed in range(settings.num_seeds):
        suffix = f"-seed-{seed}" if settings.num_seeds > 1 else ""
        seeded = _with_seed(config, seed)
        if settings.protocol == "split":
            within = run if seed == 0 else Run(run.path("seeds", f"seed-{seed}"))
            yield Part(f"seed-{seed}", seed, data, within, seeded)
            continue
        for fold in range(settings.folds):
            folder = run.path("cross_validation", f"{settings.folds}-folds-{settings.fold_seed}", f"fold-{fold}")
            of_fold = fold_data(data, fold, settings.folds, settings.fold_seed, f"{folder}/data", progress)
            yield Part(f"fold-{fold}{suffix}", seed, of_fold, Run(f"{folder}/seed-{seed}"), seeded)


def num_parts(settings: EvaluateConfig) -> int:
    """How many parts a protocol has."""
    return settings.num_seeds * (1 if settings.protocol == "split" else settings.folds)


def _with_seed(config: LeaderConfig, seed: int) -> LeaderConfig:
    """The same settings with the seeds of teacher and student moved by `seed`."""
    teacher = config.teacher.model_copy(update={"seed": config.teacher.seed + seed})
    student = config.student.model_copy(update={"seed": config.student.seed + seed})
    return config.model_copy(update={"teacher": teacher, "student": student})

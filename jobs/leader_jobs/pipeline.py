"""The stages as make sees them: what each needs, whether its product is current, and how to make it.

prepared data --> teacher --> features --> distill --> evaluate
              \\-> titles ---------------/              /
              \\-> student (without a teacher) ---------/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from leader_jobs import placement
from leader_platform import storage
from leader_platform.artifacts import FEATURES, STUDENT, STUDENT_ALONE, TEACHER, TITLES, Run
from leader_platform.config import LeaderConfig, StudentConfig, fingerprint
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import UserError
from leader_platform.progress import Progress


@dataclass(frozen=True)
class Stage:
    """A training stage by its command's name: the product it makes and the stages whose products it reads."""

    name: str
    product: str
    needs: tuple[str, ...] = ()


STAGES = {
    stage.name: stage
    for stage in (
        Stage("teacher", TEACHER),
        Stage("features", FEATURES, ("teacher",)),
        Stage("titles", TITLES),
        Stage("distill", STUDENT, ("features", "titles")),
        Stage("student", STUDENT_ALONE),
    )
}
# Settings of the teacher that decide memory, speed and reports, not the product. `num_workers` is not one of them: it
# decides which samples make a step.
_NOT_THE_TEACHER = {
    "log_steps",
    "checkpoint_steps",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "shard_backbone",
}
# What `--stage` takes beside a stage's own name.
GROUPS = {"all": ("teacher", "features", "titles", "distill")}


def stage_key(name: str, data: PreparedData, config: LeaderConfig) -> str:
    """A digest of everything that decides a stage's product; equal keys mean that it need not be made again.

    What a stage may use (workers aside) and how often it tells or saves is not part of it: the product is the same. Nor
    is what decides a step's memory and speed but not its gradient: a training that ran out of memory resumes with less.
    """
    student = config.student.model_dump(mode="json", exclude={"checkpoint_epochs", "title_depth"})
    settings = {
        "teacher": (config.prompt, config.teacher.model_dump(mode="json", exclude=_NOT_THE_TEACHER)),
        "titles": (config.teacher.backbone, config.student.title_depth, config.features.dtype),
        "features": (config.features.engine, config.features.dtype, config.evaluate.threshold_metric),
        "distill": (student, config.evaluate.threshold_metric),
        "student": (student, config.evaluate.threshold_metric),
    }[name]
    upstream = [stage_key(need, data, config) for need in needs(name, config)]
    return fingerprint(name, data.fingerprint, *settings, *upstream)


def needs(name: str, config: LeaderConfig) -> list[str]:
    """The stages whose products a stage reads under these settings."""
    return _used(STAGES[name].needs, config)


def with_needs(name: str, config: LeaderConfig) -> list[str]:
    """A stage and all that come before it, in their order."""
    before = [earlier for need in needs(name, config) for earlier in with_needs(need, config)]
    return [*dict.fromkeys(before), name]


def stages_of(wanted: str, config: LeaderConfig) -> list[str]:
    """The stages that a name stands for: itself, or those of a group."""
    return _used(GROUPS[wanted], config) if wanted in GROUPS else [wanted]


def _used(names: Sequence[str], config: LeaderConfig) -> list[str]:
    """Without the titles where no student reads them."""
    return [name for name in names if name != "titles" or reads_titles(config.student)]


def plan(wanted: str, data: PreparedData, run: Run, config: LeaderConfig, force: bool, only: bool) -> list[str]:
    """The stages to run, in order, so that the wanted one is current.

    With `only`, a need that is not current is refused, naming the command that makes it. With `force`, the wanted
    stages run even when they are current; their needs do not.
    """
    targets = stages_of(wanted, config)
    steps: list[str] = []

    def visit(name: str) -> None:
        if name in steps:
            return
        for need in needs(name, config):
            visit(need)
        wished = force and name in targets
        remade = any(need in steps for need in needs(name, config))
        if not wished and not remade and run.is_current(STAGES[name].product, stage_key(name, data, config)):
            return
        if only and name not in targets:
            raise UserError(
                f"Stage {wanted} needs the product of {name}, which {run.uri} does not have for these settings; "
                f"run `leader train --stage {name} --data {quote(data.uri)} --run {quote(run.uri)}` first, "
                "or leave out --only."
            )
        steps.append(name)

    for target in targets:
        visit(target)
    return steps


def reads_titles(config: StudentConfig) -> bool:
    """Whether a student with a teacher reads the language model's states of titles."""
    return config.wide and config.title_states


def run_stage(name: str, data: PreparedData, run: Run, config: LeaderConfig, resume: bool, progress: Progress) -> None:
    """Make one stage's product on the Ray that is connected."""
    key = stage_key(name, data, config)
    with storage.room_for(run.uri), progress.task(f"Stage {name}"):
        _run_stage(name, data, run, placement.resolved(config), key, resume, progress)


def _run_stage(
    name: str, data: PreparedData, run: Run, config: LeaderConfig, key: str, resume: bool, progress: Progress
) -> None:
    if name == "titles":
        from leader_jobs.titles import read_code_titles

        read_code_titles(data, run, config, key, progress)
    elif name == "teacher":
        from leader_jobs.teacher import train_teacher

        train_teacher(data, run, config, key, resume, progress)
    elif name == "features":
        from leader_jobs.features import generate_features

        generate_features(data, run, config, key, progress)
    else:
        from leader_jobs.distill import train_student

        train_student(data, run, config, key, resume, progress, with_teacher=name == "distill")


def train(
    wanted: str,
    data: PreparedData,
    run: Run,
    config: LeaderConfig,
    progress: Progress,
    *,
    resume: bool = False,
    force: bool = False,
    only: bool = False,
) -> list[str]:
    """Run the wanted stage and those it needs; returns the stages that ran."""
    steps = plan(wanted, data, run, config, force, only)
    if not steps:
        progress.log(f"Nothing to do: {wanted} is current in {run.uri} (--force runs it again).")
    elif len(steps) > 1:
        progress.log(f"Stages to run: {', '.join(steps)}.")
    for name in steps:
        run_stage(name, data, run, config, resume, progress)
    return steps

"""Named full configurations. A recipe is a function that returns one; `leader --recipe NAME` takes it by its name."""

from collections.abc import Callable
from typing import Any

from leader_platform.config import (
    DataConfig,
    FeaturesConfig,
    LeaderConfig,
    PromptConfig,
    ResourcesConfig,
    StudentConfig,
    TeacherConfig,
)
from leader_platform.errors import UserError


def quickstart() -> LeaderConfig:
    """The whole job in minutes on two cores: the embedded SmolLM2, short prompts, few steps.

    A third of the layers, read by the mean of its tokens, is as good as all of them by validation patients of the
    synthetic cohort (docs/LOG.md), at a third of the cost.
    """
    return LeaderConfig(
        recipe="quickstart",
        prompt=PromptConfig(history_visits=1, max_tokens=448),
        teacher=TeacherConfig(
            depth=1 / 3,
            pooling="mean",
            lora_dropout=0.0,
            learning_rate=1e-4,
            max_epochs=1,
            max_steps=50,
            evaluate_steps=10,
            validation_samples=32,
            batch_size=4,
            gradient_accumulation=2,
            checkpoint_steps=20,
        ),
        student=StudentConfig(max_epochs=40, patience=6),
    )


def mimic4_demo() -> LeaderConfig:
    """The open MIMIC-IV demo, 100 patients, on two cores: gentle tuning from a fitted head, since so few patients are
    learnt by heart within an epoch or two (docs/LOG.md)."""
    return LeaderConfig(
        recipe="mimic4-demo",
        prompt=PromptConfig(history_visits=3, max_tokens=768),
        teacher=TeacherConfig(
            learning_rate=5e-5,
            max_epochs=1,
            max_steps=None,
            batch_size=8,
            gradient_accumulation=1,
            evaluate_steps=6,
            checkpoint_steps=12,
        ),
        student=StudentConfig(
            dropout=0.3, learning_rate=2e-4, distillation_weight=0.1, max_epochs=60, patience=15, checkpoint_epochs=20
        ),
    )


def _paper(name: str, student: StudentConfig) -> LeaderConfig:
    return LeaderConfig(
        recipe=name,
        data=DataConfig(sample_visits="last", require_procedures=True, max_history_visits=10),
        prompt=PromptConfig(history_visits=3, profile=False, max_tokens=2048),
        teacher=TeacherConfig(
            backbone="huggyllama/llama-7b",
            head_prior_bias=False,
            head_warm_start=False,
            renewal=False,
            lora_dropout=0.1,
            max_gradient_norm=None,
            evaluate_steps=None,
            head_learning_rate=2e-4,
            max_epochs=1000,
            num_workers=4,
        ),
        features=FeaturesConfig(concurrency=1),
        student=student,
        resources=ResourcesConfig(cpus_per_worker=4, gpus_per_worker=1),
    )


_PAPER_STUDENT: dict[str, Any] = {
    "profile_fields": ("insurance", "language", "marital_status", "race"),
    "output_prior_bias": False,
    "soft_label_weight": 0.0,
    "wide": False,
    "title_states": False,
    "calibrate": False,
    "batch_size": 4,
}


def paper_mimic3() -> LeaderConfig:
    """The paper's settings for MIMIC-III (FIELD: alpha 0.4, beta 0.005), on four GPUs."""
    student = StudentConfig(distillation_weight=0.4, alignment_weight=0.005, **_PAPER_STUDENT)
    return _paper("paper-mimic3", student)


def paper_mimic4() -> LeaderConfig:
    """The paper's settings for MIMIC-IV (FIELD: alpha 0.8 in the text, 0.1 in the code; beta 0.01), on four GPUs."""
    student = StudentConfig(distillation_weight=0.8, alignment_weight=0.01, **_PAPER_STUDENT)
    return _paper("paper-mimic4", student)


RECIPES: dict[str, Callable[[], LeaderConfig]] = {
    "default": LeaderConfig,
    "quickstart": quickstart,
    "mimic4-demo": mimic4_demo,
    "paper-mimic3": paper_mimic3,
    "paper-mimic4": paper_mimic4,
}


def recipe(name: str) -> LeaderConfig:
    """The configuration of a recipe by name; `UserError` lists the names there are."""
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]()

"""One typed configuration for the whole platform: frozen models, one a stage, nested in `LeaderConfig`.

Defaults are the paper's where it specifies a value and a laptop can bear it; recipes (`recipes.py`) set the rest.
"FIELD" in a description means the paper's or its published code's value; "measured" means ours, on two cores.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

ProfileField = Literal["gender", "age", "insurance", "language", "marital_status", "race"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Frozen):
    """How raw tables become samples."""

    sample_visits: Literal["every", "last"] = Field(
        "every", description="A sample for every visit, or for each patient's last visit only (the paper)."
    )
    label_window_hours: float | None = Field(
        None, gt=0, description="Hours of prescriptions after admission that are labels; null: the whole stay (paper)."
    )
    require_procedures: bool = Field(
        False, description="Drop visits without a procedure, as the published code's inner join does."
    )
    min_visits: int = Field(1, ge=1, description="Fewest kept visits of a patient; 1 keeps first-visit patients.")
    max_history_visits: int = Field(
        20, ge=0, description="Most recent earlier visits that a sample keeps; bounds the few patients with hundreds."
    )
    min_code_count: int = Field(
        1, ge=1, description="Fewest training visits in which a code must appear to enter the vocabulary."
    )
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share of patients for validation.")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="Share of patients for test.")
    split: Literal["random", "time"] = Field(
        "random",
        description="Which patients test: any, or those whose last visits are the latest (MIMIC-IV alone tells).",
    )
    split_seed: int = Field(0, description="Seed of the split by patient.")
    shard_rows: int = Field(
        2_000_000, ge=1, description="Raw prescription and diagnosis rows a shard aims at; bounds a task's memory."
    )

    @model_validator(mode="after")
    def _leaves_training_patients(self) -> DataConfig:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction must sum to less than 1")
        return self


class PromptConfig(_Frozen):
    """How a sample becomes the text that the teacher reads."""

    history_visits: int = Field(3, ge=0, description="At most so many earlier visits are told (FIELD: 3).")
    profile: bool = Field(True, description="Begin with a sentence on age and sex (ours; the paper has none).")
    max_tokens: int = Field(
        2048, ge=64, description="Longest prompt in tokens (FIELD: 2048); oldest history goes first."
    )


class TeacherConfig(_Frozen):
    """The tuned language model: a decoder with LoRA and a medication layer (FIELD: y = sigmoid(W h))."""

    backbone: str = Field("smollm2", description="`smollm2` (embedded), a local folder, or a hub name of a causal LM.")
    lora_rank: int = Field(8, ge=1, description="FIELD: r=8.")
    lora_alpha: int = Field(32, ge=1, description="FIELD: alpha=32.")
    lora_dropout: float = Field(0.1, ge=0, lt=1, description="FIELD: 0.1. 0 trains 1.7 times as fast (measured).")
    lora_targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Projections that get an adapter (FIELD: all seven).",
    )
    head_prior_bias: bool = Field(
        True,
        description="Head from zero with the classes' training log-odds as bias; false: W without bias (FIELD).",
    )
    learning_rate: float = Field(2e-4, gt=0, description="FIELD: 2e-4.")
    head_learning_rate: float = Field(1e-3, gt=0, description="The new layer learns faster than the adapter (ours).")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of steps of linear warm-up; then linear decay.")
    weight_decay: float = Field(0.0, ge=0)
    max_epochs: int = Field(1, ge=1, description="Passes over the training samples, unless `max_steps` ends them.")
    max_steps: int | None = Field(
        3000, ge=1, description="Optimiser steps (FIELD: 3,000); null: as many as the epochs."
    )
    batch_size: int = Field(4, ge=1, description="Prompts a step and worker (FIELD: 4).")
    gradient_accumulation: int = Field(2, ge=1, description="Batches a step (FIELD: 2).")
    bucket_batches: int = Field(16, ge=1, description="Batches that are sorted by length together; less padding.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="bf16 is 1.3 times as fast on two cores (measured)."
    )
    gradient_checkpointing: bool = Field(False, description="Trade compute for memory on large backbones.")
    log_steps: int = Field(5, ge=1, description="Steps between lines of progress.")
    checkpoint_steps: int = Field(
        50, ge=1, description="Steps between checkpoints; a killed run goes on from the last."
    )
    num_workers: int = Field(1, ge=1, description="Ray Train workers (FIELD: 4 GPUs).")
    seed: int = 0


class FeaturesConfig(_Frozen):
    """Batch generation of the teacher's hidden states and logits."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="The second engine is for parity checks.")
    batch_size: int = Field(32, ge=1, description="Prompts handed to the engine at once, and rows an output file.")
    concurrency: int = Field(1, ge=1, description="Engines side by side.")
    kv_cache_gb: float = Field(
        1.0, gt=0, description="vLLM's key-value cache on a CPU, GiB; unset it takes most memory."
    )
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class StudentConfig(_Frozen):
    """The distilled model and the three losses. Sizes are the paper's (FIELD)."""

    width: int = Field(64, ge=4, description="Embedding size d (FIELD: 64).")
    heads: int = Field(4, ge=1, description="Attention heads (FIELD: 4).")
    feed_forward: int = Field(300, ge=1, description="Feed-forward size of the encoders (FIELD: 300).")
    dropout: float = Field(0.1, ge=0, lt=1, description="In the encoders and before the first linear layer (ours).")
    output_prior_bias: bool = Field(
        True, description="Begin as the popularity baseline, as the teacher's head does (ours); false: random (FIELD)."
    )
    profile_fields: tuple[ProfileField, ...] = Field(
        ("gender", "age", "insurance", "language", "marital_status", "race"),
        description="Fields of the profile encoder (the paper has no age and no sex).",
    )
    distillation_weight: float = Field(0.4, ge=0, description="alpha (FIELD: 0.4 MIMIC-III; 0.8 or 0.1 MIMIC-IV).")
    alignment_weight: float = Field(0.005, ge=0, description="beta (FIELD: 0.005 MIMIC-III; 0.01 MIMIC-IV).")
    alignment_temperature: float = Field(1.0, gt=0, description="tau of the contrastive loss (FIELD: 1).")
    learning_rate: float = Field(5e-4, gt=0, description="Adam (FIELD: 5e-4).")
    batch_size: int = Field(32, ge=2, description="Samples a step and worker.")
    max_epochs: int = Field(100, ge=1, description="FIELD: at most 100.")
    patience: int = Field(10, ge=1, description="Epochs without a better validation PRAUC (FIELD: 10).")
    checkpoint_epochs: int = Field(
        5,
        ge=1,
        description="Epochs between checkpoints; one costs a second or two, as much as a small epoch.",
    )
    num_workers: int = Field(1, ge=1, description="Ray Train workers.")
    seed: int = 0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> StudentConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class EvaluateConfig(_Frozen):
    """How predictions are judged."""

    threshold_metric: Literal["jaccard", "f1"] = Field(
        "jaccard", description="What the threshold maximises, on validation samples alone."
    )


class ServeConfig(_Frozen):
    """The HTTP application."""

    host: str = Field("127.0.0.1", description="Address that the HTTP proxy binds to.")
    port: int = Field(8000, ge=1, le=65535)
    teacher: bool = Field(True, description="Deploy the teacher too; without it every request goes to the student.")
    teacher_engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="What runs the teacher's language model."
    )
    teacher_timeout_s: float = Field(30.0, gt=0, description="Seconds after which `auto` falls back to the student.")
    student_replicas: int = Field(1, ge=1)
    teacher_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(64, ge=1, description="Requests that one replica works on at a time.")
    max_queued_requests: int = Field(256, ge=1, description="Requests that wait before a caller is told to come again.")
    max_visits: int = Field(200, ge=1, description="Most visits in one request.")
    max_codes: int = Field(500, ge=1, description="Most codes of one kind in one visit.")
    max_batch: int = Field(64, ge=1, description="Most patients in one batch request.")


class ResourcesConfig(_Frozen):
    """What a stage asks Ray for."""

    cpus_per_worker: float = Field(2.0, gt=0, description="CPU cores a training worker or an engine computes on.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs a training worker or an engine computes on.")


class LeaderConfig(_Frozen):
    """Everything that decides a result, and what it may use."""

    recipe: str = Field("default", description="Name of the recipe that this configuration began as.")
    data: DataConfig = DataConfig()
    prompt: PromptConfig = PromptConfig()
    teacher: TeacherConfig = TeacherConfig()
    features: FeaturesConfig = FeaturesConfig()
    student: StudentConfig = StudentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    resources: ResourcesConfig = ResourcesConfig()


def fingerprint(*parts: Any) -> str:
    """A short stable digest of JSON-able values and pydantic models; equal values give equal digests anywhere."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def to_yaml(config: LeaderConfig) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)

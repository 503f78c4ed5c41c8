"""One typed configuration for the whole platform: frozen models, one a stage, nested in `LeaderConfig`.

Defaults are the paper's where it specifies a value and a laptop can bear it; recipes (`recipes.py`) set the rest.
"FIELD" in a description means the paper's or its published code's value; "measured" means ours, on two cores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Of a worker that may choose: more cores make the small default models no faster.
_MOST_CPUS = 2.0
ProfileField = Literal["gender", "age", "insurance", "language", "marital_status", "race"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


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
    train_icd_version: Literal[9, 10] | None = Field(
        None,
        description="Train and validate on visits coded in this version alone, to test on codes never seen; null: all.",
    )
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
    depth: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the backbone's layers that are kept, from the first on (FIELD: 1). The exported model is "
        "a smaller one of the same class.",
    )
    lora_rank: int = Field(8, ge=1, description="FIELD: r=8.")
    lora_alpha: int = Field(32, ge=1, description="FIELD: alpha=32.")
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="FIELD: 0.1; 0 trains 1.7 times as fast on two cores (measured)."
    )
    lora_targets: tuple[str, ...] | Literal["all-linear"] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Projections that get an adapter (FIELD: all seven), or `all-linear`, whatever they are called.",
    )
    pooling: Literal["last", "mean"] = Field(
        "last", description="The prompt's state h: its last token's (FIELD), or the mean of its tokens'."
    )
    head_prior_bias: bool = Field(
        True,
        description="Head from zero with the classes' training log-odds as bias; false: W without bias (FIELD).",
    )
    renewal: bool = Field(
        True, description="The head adds the log-odds of what the previous visit had to what it reads (ours)."
    )
    head_warm_start: bool = Field(
        True,
        description="Fit the head on the untuned backbone's states first, then tune both (Kumar and others 2022).",
    )
    head_warm_start_samples: int = Field(8192, ge=1, description="At most so many training samples fit that head.")
    class_weighting: Literal["none", "balanced"] = Field(
        "none", description="`balanced`: a label weighs as much more than its absence as it is rarer, to the cap."
    )
    class_weight_cap: float = Field(10.0, ge=1, description="Largest weight of a label in `balanced`.")
    learning_rate: float = Field(2e-4, gt=0, description="FIELD: 2e-4.")
    head_learning_rate: float | None = Field(
        None,
        gt=0,
        description="Of the medication layer; null: 1e-5 after a warm start, which larger steps undo (measured), else "
        "1e-3, since a new layer must learn faster than the adapter (ours).",
    )
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of steps of linear warm-up; then linear decay.")
    weight_decay: float = Field(0.0, ge=0)
    max_gradient_norm: float | None = Field(1.0, gt=0, description="Longer gradients are cut to it; null: never.")
    max_epochs: int = Field(1, ge=1, description="Passes over the training samples, unless `max_steps` ends them.")
    max_steps: int | None = Field(
        3000, ge=1, description="Optimiser steps (FIELD: 3,000); null: as many as the epochs."
    )
    batch_size: int = Field(4, ge=1, description="Prompts a step and worker (FIELD: 4).")
    gradient_accumulation: int = Field(2, ge=1, description="Batches a step (FIELD: 2).")
    micro_batch_tokens: int = Field(
        2048,
        ge=64,
        description="Tokens, with padding, that pass the model at once; a step's prompts are cut to it by length. It "
        "decides memory and speed, not the step's gradient.",
    )
    bucket_batches: int = Field(16, ge=1, description="Batches that are sorted by length together; less padding.")
    dtype: Dtype = Field(
        "auto",
        description="Precision of the frozen weights in training; `auto`: bfloat16 where it is native, else float32. "
        "Adapter and head are always float32.",
    )
    gradient_checkpointing: bool = Field(False, description="Trade compute for memory on large backbones.")
    evaluate_steps: int | None = Field(
        100, ge=1, description="Steps between validations, whose best weights are kept; null: keep the last weights."
    )
    validation_samples: int = Field(256, ge=1, description="At most so many validation samples are read each time.")
    patience: int = Field(5, ge=1, description="Validations without a better PRAUC, after which training ends.")
    log_steps: int = Field(5, ge=1, description="Steps between lines of progress.")
    checkpoint_steps: int = Field(
        50, ge=1, description="Steps between checkpoints; a killed run goes on from the last."
    )
    num_workers: int = Field(1, ge=1, description="Ray Train workers (FIELD: 4 GPUs).")
    shard_backbone: bool = Field(
        False, description="Give each worker a share of the frozen weights (FSDP), for backbones that fill a GPU."
    )
    seed: int = 0

    @model_validator(mode="after")
    def _shares_with_somebody(self) -> TeacherConfig:
        if self.shard_backbone and self.num_workers < 2:
            raise ValueError("shard_backbone needs num_workers of 2 or more")
        return self

    @property
    def head_rate(self) -> float:
        """The head's learning rate."""
        return self.head_learning_rate or (1e-5 if self.head_warm_start else 1e-3)


class FeaturesConfig(_Frozen):
    """Batch generation of the teacher's hidden states and logits."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="The second engine is for parity checks.")
    batch_size: int = Field(32, ge=1, description="Prompts handed to the engine at once, and rows an output file.")
    concurrency: int = Field(1, ge=1, description="Engines side by side.")
    kv_cache_gb: float = Field(
        1.0, gt=0, description="vLLM's key-value cache on a CPU, GiB; unset it takes most memory."
    )
    dtype: Dtype = Field(
        "auto",
        description="Precision in which prompts and titles are read; `auto`: bfloat16 where it is native, float16 on "
        "older GPUs, else float32.",
    )


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
    soft_label_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the teacher's probabilities in the targets (ours); 0: labels alone (FIELD).",
    )
    wide: bool = Field(
        True,
        description="A linear layer from codes, their categories and the previous visit's medications (ours).",
    )
    wide_penalty: float = Field(
        8.0, ge=0, description="L2 of the wide layer, as the inverse C of a logistic regression per medication."
    )
    wide_learning_rate: float = Field(2e-3, gt=0, description="Of the wide layer, a convex part of the model.")
    title_states: bool = Field(
        True,
        description="The wide layer reads what the language model makes of titles (ours); not without a teacher.",
    )
    title_size: int = Field(128, ge=1, description="Principal components that are kept of a title's state.")
    title_depth: float = Field(
        1 / 3, gt=0, le=1, description="Depth of the layer that reads titles; a third is best on the demo (measured)."
    )
    calibrate: bool = Field(True, description="Divide logits by a temperature that is fitted on validation (ours).")
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


# Decided before a search: what all its trials share.
_SAME_FOR_ALL_TRIALS = ("title_states", "title_size", "title_depth", "num_workers")


class TuneConfig(_Frozen):
    """The search over the student's settings: where it looks, and when it gives a trial up (ASHA).

    Each table names settings of `student`; null takes one out of the search.
    """

    uniform: dict[str, tuple[float, float] | None] = Field(
        {"dropout": (0.0, 0.5), "soft_label_weight": (0.0, 1.0)},
        description="Lowest and highest value; each between is as likely.",
    )
    loguniform: dict[str, tuple[float, float] | None] = Field(
        {
            "distillation_weight": (0.01, 2.0),
            "alignment_weight": (0.001, 0.1),
            "alignment_temperature": (0.1, 2.0),
            "learning_rate": (1e-4, 5e-3),
        },
        description="Lowest and highest value, both above 0; each order of magnitude between is as likely.",
    )
    choice: dict[str, tuple[Any, ...] | None] = Field({"width": (32, 64, 128)}, description="The values to try.")
    grace_epochs: int = Field(8, ge=1, description="Epochs that every trial gets.")
    reduction_factor: float = Field(
        3.0, gt=1, description="At 1, 3, 9 ... times `grace_epochs` the best of so many trials go on, the rest end."
    )
    cpus_per_trial: float = Field(1.0, gt=0, description="CPU cores a trial computes on; bounds the trials at a time.")
    seed: int = Field(0, ge=0, description="Seed of the settings that are drawn.")

    @model_validator(mode="after")
    def _searches_student_settings(self) -> TuneConfig:
        tables = (self.uniform, self.loguniform, self.choice)
        searched = [name for table in tables for name, values in table.items() if values is not None]
        for name in searched:
            if name not in StudentConfig.model_fields:
                raise ValueError(f"there is no setting student.{name} to search")
            if name in _SAME_FOR_ALL_TRIALS:
                raise ValueError(f"student.{name} is the same for all trials and cannot be searched")
            if searched.count(name) > 1:
                raise ValueError(f"student.{name} is searched in two ways; set one of them to null")
        for name, interval in (*self.uniform.items(), *self.loguniform.items()):
            if interval is not None:
                _check_interval(name, *interval, above_zero=interval is self.loguniform.get(name))
        for name, values in self.choice.items():
            if values is not None:
                _check_values(name, values)
        return self


def _check_interval(name: str, low: float, high: float, above_zero: bool) -> None:
    if StudentConfig.model_fields[name].annotation is not float:
        raise ValueError(f"student.{name} takes no real numbers; search it by tune.choice")
    if low >= high or (above_zero and low <= 0):
        raise ValueError(f"student.{name} cannot be searched from {low:g} to {high:g}")
    _check_values(name, (low, high))


def _check_values(name: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise ValueError(f"student.{name} has no values to try")
    for value in values:
        try:
            StudentConfig.model_validate({name: value})
        except ValidationError as error:
            raise ValueError(f"student.{name} cannot be {value!r}: {error.errors()[0]['msg']}") from None


class EvaluateConfig(_Frozen):
    """How models are judged: under which protocol, which ones, and with which statistics."""

    protocol: Literal["split", "cross-validation"] = Field(
        "split", description="The data set's own split, or folds by patient, on each of which all models are trained."
    )
    folds: int = Field(5, ge=2, description="Folds of a cross-validation; each patient tests in one.")
    fold_seed: int = Field(0, ge=0, description="Seed of the folds.")
    num_seeds: int = Field(1, ge=1, description="Trainings of each model, with seeds one apart; metrics are averaged.")
    models: tuple[str, ...] = Field(
        (
            "popularity",
            "previous_visit",
            "logistic_regression",
            "logistic_regression_from_previous_visit",
            "student_without_teacher",
            "student",
            "teacher",
        ),
        min_length=1,
        description="What is judged. `hidden_state_ridge`, the untuned language model, reads every prompt; a baseline "
        "of one's own is `package.module:Class`.",
    )
    threshold_metric: Literal["jaccard", "f1"] = Field(
        "jaccard", description="What the threshold maximises, on validation samples alone."
    )
    bootstrap_replicates: int = Field(
        1000,
        ge=20,
        description="Draws of patients behind an interval; 1,000 fix its ends to a few per cent of its width.",
    )
    bootstrap_seed: int = Field(0, ge=0, description="Seed of the draws.")
    calibration_bins: int = Field(
        15,
        ge=1,
        description="Bins of equal width of the calibration error and the reliability curve (Guo and others: 15).",
    )
    min_group_patients: int = Field(
        10, ge=1, description="Fewest patients of a profile value that gets results of its own."
    )


class ServeConfig(_Frozen):
    """The HTTP application."""

    host: str = Field("127.0.0.1", description="Address that the HTTP proxy binds to.")
    port: int = Field(8000, ge=1, le=65535)
    keys_file: str | None = Field(
        None, description="Where the digests of callers' keys lie; null: no key is asked, which loopback alone may do."
    )
    policy: Literal["auto", "student", "teacher", "shadow"] = Field(
        "auto", description="Who answers a request that names no model; see docs/SERVING.md."
    )
    min_confidence: float = Field(
        0.4,
        ge=0,
        le=1,
        description="`auto` asks the teacher where the student expects a smaller Jaccard index of its own answer; 0.4 "
        "is a fifth of the MIMIC-IV demo's visits.",
    )
    shadow_share: float = Field(
        0.1, ge=0, le=1, description="Share of the requests in `shadow` on which the teacher is asked, too."
    )
    student: Literal["ingress", "deployment"] = Field(
        "ingress",
        description="Where the student computes: in the replicas that answer HTTP, or behind a hop of its own.",
    )
    teacher: bool = Field(True, description="Deploy the teacher too; without it every request goes to the student.")
    teacher_engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="What runs the teacher's language model."
    )
    teacher_dtype: Dtype = Field(
        "auto", description="Precision in which the teacher answers, as `features.dtype`, where its replica runs."
    )
    teacher_timeout_s: float = Field(
        30.0,
        gt=0,
        le=100,
        description="Seconds after which `auto` falls back to the student; less than the HTTP proxy's patience (120).",
    )
    max_teacher_waiting: int = Field(
        32,
        ge=1,
        description="Patients of one ingress replica that may wait for the teacher; more get the student's. Half of "
        "`max_ongoing_requests`, so that a teacher that hangs leaves room for the rest.",
    )
    student_replicas: int = Field(
        2, ge=1, description="Replicas that hold the student, wherever it computes; two answer on where one fails."
    )
    max_student_replicas: int | None = Field(
        None, ge=1, description="Under load Serve adds students up to so many; null: always `student_replicas`."
    )
    teacher_replicas: int = Field(1, ge=1)
    max_teacher_replicas: int | None = Field(
        None, ge=1, description="Under load Serve adds teachers up to so many; null: always `teacher_replicas`."
    )
    target_ongoing_requests: int = Field(
        16, ge=1, description="Requests at a time and replica above which Serve adds one, where it may."
    )
    max_ongoing_requests: int = Field(64, ge=1, description="Requests that one replica works on at a time.")
    max_queued_requests: int = Field(256, ge=1, description="Requests that wait before a caller is told to come again.")
    max_visits: int = Field(200, ge=1, description="Most visits in one request.")
    max_codes: int = Field(500, ge=1, description="Most codes of one kind in one visit.")
    max_batch: int = Field(64, ge=1, description="Most patients in one batch request.")

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        for model in ("student", "teacher"):
            least, most = getattr(self, f"{model}_replicas"), getattr(self, f"max_{model}_replicas")
            if most is not None and most < least:
                raise ValueError(f"serve.max_{model}_replicas={most} is less than serve.{model}_replicas={least}")
        return self


class ResourcesConfig(_Frozen):
    """What a stage asks Ray for."""

    cpus_per_worker: float | None = Field(
        None,
        gt=0,
        description="CPU cores a training worker or an engine computes on; null: 2, or the largest node's if fewer.",
    )
    gpus_per_worker: float = Field(
        0.0,
        ge=0,
        description="GPUs a training worker or an engine computes on: a share of one, or a whole number, among which "
        "vLLM divides the model; training and the transformers engine use one at most.",
    )
    wait_for_nodes_s: float = Field(
        0.0,
        ge=0,
        description="Seconds to wait for nodes that a stage needs, where a cluster grows by itself.",
    )

    def on(self, nodes: Sequence[Mapping[str, float]]) -> ResourcesConfig:
        """With the cores of a worker as a number, chosen for a cluster whose nodes have these resources.

        Where nodes are waited for, those that are up do not limit it.
        """
        if self.cpus_per_worker is not None:
            return self
        suited = [node for node in nodes if node.get("GPU", 0) >= self.gpus_per_worker] or nodes
        largest = max((node.get("CPU", 0) for node in suited), default=0)
        known = largest > 0 and not self.wait_for_nodes_s
        return self.model_copy(update={"cpus_per_worker": min(_MOST_CPUS, largest) if known else _MOST_CPUS})

    @property
    def cores(self) -> float:
        """Cores of a worker; `on` must have chosen them."""
        assert self.cpus_per_worker is not None
        return self.cpus_per_worker

    @property
    def threads(self) -> int:
        """Threads of a worker that has `cores`."""
        return max(1, int(self.cores))

    @model_validator(mode="after")
    def _gives_whole_gpus_above_one(self) -> Self:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(
                f"gpus_per_worker={self.gpus_per_worker:g} is not possible: Ray gives a share of one GPU or a whole "
                f"number of GPUs, such as {int(self.gpus_per_worker)} or {int(self.gpus_per_worker) + 1}"
            )
        return self

    @property
    def gpus_of_one_process(self) -> float:
        """GPUs of what computes on one at most (training, reading titles, the transformers engine), so that it holds no
        others idle."""
        return min(self.gpus_per_worker, 1.0)


class LeaderConfig(_Frozen):
    """Everything that decides a result, and what it may use."""

    recipe: str = Field("default", description="Name of the recipe that this configuration began as.")
    data: DataConfig = DataConfig()
    prompt: PromptConfig = PromptConfig()
    teacher: TeacherConfig = TeacherConfig()
    features: FeaturesConfig = FeaturesConfig()
    student: StudentConfig = StudentConfig()
    tune: TuneConfig = TuneConfig()
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

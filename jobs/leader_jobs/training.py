"""What the two training stages share: how Ray Train is started, resumed and read."""

from __future__ import annotations

import math
import resource
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader_jobs.metrics import TrainingMetrics
from leader_jobs.placement import require_room, worker_bundle
from leader_jobs.reports import progress_to, reports
from leader_platform import storage
from leader_platform.artifacts import TEACHER
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import RunError, UserError, find_cause
from leader_platform.models.memory import is_out_of_memory, student_advice, training_advice
from leader_platform.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch
    from ray.train import Checkpoint

    from leader_platform.evaluation.metrics import Bools
    from leader_platform.models.renewal import Renewal

# A lost machine may cost two: Ray tries again before it knows that the machine is lost.
_TRIES = 4
DATASET_FILES = ("vocabulary.json", "titles.parquet", "interactions.parquet")


def copy_dataset_files(data: PreparedData, directory: str, names: tuple[str, ...]) -> None:
    """Put what a model needs to be understood beside its weights."""
    for name in names:
        storage.write_bytes(storage.join(directory, name), storage.read_bytes(storage.join(data.uri, name)))


def data_facts(data: PreparedData) -> dict[str, Any]:
    """For a product's manifest: the data set it was made from, and the most history visits that training showed, to
    which serving keeps."""
    return {"data": data.fingerprint, "max_history_visits": data.manifest["data_config"]["max_history_visits"]}


def class_frequency(data: PreparedData) -> torch.Tensor:
    """Share of training samples with each medication [medications]."""
    import torch

    counts = torch.zeros(len(data.vocabulary.medications))
    labels = data.samples("train", ["labels"])["labels"].to_pylist()
    for codes in labels:
        counts[data.vocabulary.labels(codes)] += 1
    return counts / max(1, len(labels))


def begin_renewal(renewal: Renewal, given: Bools, labels: Bools, class_frequency: torch.Tensor) -> None:
    """Let `renewal` begin as the previous visit's baseline of training samples: what the visit before each had and what
    it has itself, both [samples, medications]; and how frequent medications are [medications]."""
    import torch

    from leader_platform.baselines.previous_visit import renewal_shares

    popularity = class_frequency.clamp(1e-4, 1 - 1e-4)
    followed = given.any(axis=1)
    shares = renewal_shares(given[followed], labels[followed], popularity.numpy())
    again, anew = (torch.from_numpy(share.astype("float32")) for share in shares)
    renewal.begin_with(again, anew, popularity)


def seed_everything(*seeds: int) -> None:
    """Seed torch from several numbers (a seed, a rank, a step); numpy's generators are passed where they are used."""
    import numpy as np
    import torch

    torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))


def require_finite(loss: float, model: str, step: int) -> float:
    """The loss, or a `UserError` that says what to change when training has diverged."""
    if not math.isfinite(loss):
        raise UserError(
            f"The {model}'s loss became {loss} at step {step}; lower {model}.learning_rate and start again."
        )
    return loss


def run_trainer(
    worker: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    datasets: dict[str, Any],
    directory: str,
    config: LeaderConfig,
    num_workers: int,
    resume: bool,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
) -> tuple[Checkpoint, list[dict[str, Any]]]:
    """Run `worker` under Ray Train with its checkpoints in `directory`; the last checkpoint and all reported metrics.

    What a worker reports with `tell` is logged; `environment` is set before a worker's process starts. Without
    `resume` what an interrupted run left there is removed first, since Ray Train would silently go on from it.
    """
    import torch
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if not resume:
        storage.remove(directory)
    elif not storage.exists(directory):
        progress.log("Nothing to go on from with these settings; starting anew.")
    parent, name = directory.rsplit("/", 1)
    resources = config.resources
    use_gpu = resources.gpus_per_worker > 0
    per_worker = worker_bundle(resources)
    num_threads = resources.threads
    require_room(per_worker, num_workers, "Training", resources.wait_for_nodes_s, progress)

    def loop(arguments: dict[str, Any]) -> None:
        torch.set_num_threads(num_threads)
        started = time.monotonic()
        worker(arguments)
        # Linux counts in KiB; all of the process, libraries too.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        tell(arguments, {"seconds": time.monotonic() - started, "peak_memory_gb": peak})

    # By a dict, since Ray's type hints are those of another RunConfig.
    before_start: dict[str, Any] = {"worker_runtime_env": {"env_vars": dict(environment or {})}}
    product = name.rpartition("-")[0] or name  # its scratch folder is named by it and by a fingerprint
    metrics, history = TrainingMetrics(product), list[dict[str, Any]]()

    def take(told: dict[str, Any]) -> None:
        history.append(told)
        metrics.told(told)
        progress.log("  " + "  ".join(f"{name} {_shown(value)}" for name, value in told.items()))

    with progress.task(f"Training the {product.replace('_', ' ')}"), reports(progress, take) as channel:
        trainer = TorchTrainer(
            loop,
            train_loop_config={**arguments, "reports": channel.queue},
            datasets=datasets,
            dataset_config=DataConfig(datasets_to_split=["train"]),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=per_worker),
            run_config=RunConfig(
                name=name,
                storage_path=parent,
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=_TRIES - 1),
                **before_start,
            ),
        )
        checkpoint = _fit(trainer, product, _memory_advice(product, config))
    return checkpoint, history


def _memory_advice(product: str, config: LeaderConfig) -> str:
    return training_advice(config.teacher) if product == TEACHER else student_advice(config.student.batch_size)


def _fit(trainer: Any, name: str, advice: str) -> Checkpoint:
    """Train, and tell a failure in a sentence: the worker's own where it has one."""
    from ray.train import TrainingFailedError

    try:
        result = _beside_main_thread(trainer.fit)
    except TrainingFailedError as error:
        failures = (error, *getattr(error, "worker_failures", {}).values())
        for failure in failures:
            cause = find_cause(failure, (UserError, RunError)) or storage.full_disk(failure)
            if cause is not None:
                raise cause from error
        if any(map(is_out_of_memory, failures)):  # such as a worker that Ray's memory monitor ended
            raise RunError(f"A worker that trained the {name} ran out of memory; {advice}.") from error
        raise RunError(
            f"Training the {name} failed {_TRIES} times: {_last_line(error)}; `leader train --resume` goes on from its "
            "last checkpoint, and the worker's log has the rest."
        ) from error
    if result.checkpoint is None:
        raise RunError(f"Training the {name} ended without a checkpoint; its worker's log names the cause.")
    return result.checkpoint


def _beside_main_thread(function: Callable[[], Any]) -> Any:
    """`function()` in a thread of its own, waited for.

    In the main thread Ray Train takes the interrupt's handler for itself and keeps it: after training, Ctrl-C would do
    nothing at all. Here an interrupt ends the wait, and the Ray session around it ends the training.
    """
    answers: list[Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            answers.append(function())
        except BaseException as error:  # also what is no Exception belongs to the caller
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def training_facts(history: list[dict[str, Any]]) -> dict[str, Any]:
    """For a product's manifest: what the workers told on the way, and what the training took."""
    took = [told for told in history if "peak_memory_gb" in told]
    return {"training": [told for told in history if told not in took], **(took[-1] if took else {})}


def num_parameters(file: Path) -> int:
    """How many numbers a safetensors file holds."""
    from safetensors import safe_open

    with safe_open(file, "np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def tell(arguments: dict[str, Any], told: dict[str, Any]) -> None:
    """In a worker: tell the driver how training goes; cheap, where `ray.train.report` takes a second."""
    from ray import train

    if train.get_context().get_world_rank() == 0:
        arguments["reports"].put(told)


def worker_progress(arguments: dict[str, Any]) -> Progress:
    """In a worker: what its tasks report to; of several workers the first one's are shown."""
    from ray import train

    return progress_to(arguments["reports"]) if train.get_context().get_world_rank() == 0 else SILENT


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

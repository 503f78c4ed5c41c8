"""Running out of memory, in the words of each library that may, and the settings that are named for it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from leader_jobs.engine_log import in_folder
from leader_jobs.teacher_head import prompts_at_once
from leader_jobs.training import _fit
from leader_platform.config import LeaderConfig, TeacherConfig
from leader_platform.errors import RunError, UserError
from leader_platform.models.memory import (
    engine_advice,
    explain_out_of_memory,
    features_advice,
    serving_advice,
    student_advice,
    titles_advice,
    training_advice,
    warm_start_advice,
)
from leader_platform.settings import load_config

CACHE_TOO_SMALL = (
    "To serve at least one request with the model's max seq len (2048), (1.75 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (1.0 GiB)."
)
ENGINE_ENDED = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


def in_a_task(cause: Exception) -> Exception:
    """As `ray.get` raises what a task raised."""
    error: Exception = RayTaskError(
        "read", f"Traceback ...\n{type(cause).__name__}: {cause}", cause
    ).as_instanceof_cause()
    return error


def in_an_actors_start(cause: Exception) -> Exception:
    """What Ray raises for an actor whose `__init__` raised: a text alone."""
    return ActorDiedError(RayTaskError("__init__", f"Traceback ...\n{type(cause).__name__}: {cause}", cause))


def allocation_failure() -> Exception:
    """What numpy raises, and torch on a CPU, for more than any machine has."""
    with pytest.raises(MemoryError) as failed:
        np.empty(10**15)
    return failed.value


OUT_OF_MEMORY = [
    MemoryError(),
    allocation_failure(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    OSError(12, "Cannot allocate memory"),
    OutOfMemoryError("Task was killed due to the node running low on memory."),
    ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
    ValueError(
        "Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.85, "
        "67.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    ),
    ValueError(
        "Available memory on node 0 (1.0/2.0 GiB) on startup is less than desired CPU memory utilization (0.9, 2 GiB)."
    ),
    ValueError(
        "Available memory on node 0 (1.0/2.0 GiB) on kv cache allocation is less than requested memory for kv (4 GiB)."
    ),
    ValueError(CACHE_TOO_SMALL),
    RuntimeError("CUDA out of memory occurred when warming up pooler (task='embed') with 256 dummy requests."),
    RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': -9}"),
]
OTHERS = [
    RuntimeError("shapes differ"),
    ValueError("User-specified max_model_len (2048) is greater than the derived max_model_len (1024)"),
    OSError(28, "No space left on device"),
    RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': 1}"),
    RuntimeError(
        "Worker exit type: SYSTEM_ERROR. Some common causes include: (1) the process was killed by the OOM killer due "
        "to high memory usage, (2) ray stop --force was called"
    ),
]


def explained(cause: Exception, *arguments: Any, **others: Any) -> None:
    with explain_out_of_memory(*arguments, **others):
        raise cause


@pytest.mark.parametrize("wrapped", [lambda error: error, in_a_task, in_an_actors_start])
@pytest.mark.parametrize("cause", OUT_OF_MEMORY, ids=lambda cause: f"{type(cause).__name__} {str(cause)[:30]}")
def test_running_out_of_memory_is_explained(cause: Exception, wrapped: Callable[[Exception], Exception]) -> None:
    with pytest.raises(RunError, match=r"^The teacher ran out of memory; lower it\.$"):
        explained(wrapped(cause), "The teacher", "lower it", read_log=str)


@pytest.mark.parametrize("cause", OTHERS, ids=lambda cause: str(cause)[:30])
def test_other_errors_stay_what_they_are(cause: Exception) -> None:
    with pytest.raises(type(cause)) as failed:
        explained(cause, "The teacher", "lower it", read_log=str)
    assert failed.value is cause


@pytest.mark.parametrize("sentence", [RunError("Step 7 ran out of memory."), UserError("The disk is out of memory.")])
def test_what_is_a_sentence_already_is_not_explained_again(sentence: Exception) -> None:
    sentence.__cause__ = MemoryError()
    with pytest.raises(type(sentence)) as failed:
        explained(sentence, "Training", "lower it")
    assert failed.value is sentence


def test_the_cause_may_stand_in_the_engines_log_alone() -> None:
    advice = ("The engine", "use less", "use more")
    with pytest.raises(RunError, match="use less"):
        explained(RuntimeError(ENGINE_ENDED), *advice, lambda: "torch.OutOfMemoryError: CUDA out of memory")
    ended = RuntimeError("Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file.")
    with pytest.raises(RunError, match="use less"):
        explained(ended, *advice, lambda: "torch.OutOfMemoryError: CUDA out of memory")
    with pytest.raises(RuntimeError, match="root cause"):
        explained(RuntimeError(ENGINE_ENDED), *advice, lambda: "KeyError: 'layers'")
    with pytest.raises(KeyError):  # what an earlier engine wrote is not the cause of another error
        explained(KeyError("layers"), *advice, lambda: "torch.OutOfMemoryError: CUDA out of memory")


def test_a_cache_that_is_too_small_asks_for_more_not_less() -> None:
    advice = engine_advice(0, kv_cache_gb=1)
    with pytest.raises(RunError, match=r"raise features\.kv_cache_gb \(1\)"):
        explained(RuntimeError(ENGINE_ENDED), "The engine", *advice, lambda: CACHE_TOO_SMALL)
    with pytest.raises(RunError, match=r"lower features\.kv_cache_gb \(1\)"):
        explained(MemoryError(), "The engine", *advice)


def test_a_worker_reads_its_own_log(tmp_path: Path) -> None:
    """As a Serve replica does, whose output and whose engine's go to files."""
    code = (
        "import sys\n"
        "from leader_platform.models.memory import explain_out_of_memory\n"
        "print('(EngineCore pid=1) ValueError: No available memory for the cache blocks.', flush=True)\n"
        "try:\n"
        "    with explain_out_of_memory('The engine', 'use less'):\n"
        f"        raise RuntimeError({ENGINE_ENDED!r})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, file=sys.stderr)\n"
    )
    with (tmp_path / "out").open("wb") as out:
        ended = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "RunError"


def test_a_nodes_logs_are_searched_for_this_job_and_this_time(tmp_path: Path) -> None:
    found = tmp_path / "worker-aa-01000000-7.out"
    found.write_text("weights\n(EngineCore pid=9) CUDA out of memory\nmore\n")
    (tmp_path / "worker-bb-02000000-8.err").write_text("another job's: CUDA out of memory, too\n")
    (tmp_path / "raylet.out").write_text("out of memory\n")
    since = found.stat().st_mtime
    assert in_folder(tmp_path, "01000000", since) == "(EngineCore pid=9) CUDA out of memory"
    assert in_folder(tmp_path, "01000000", since + 1) == ""


# --- the settings that are named -------------------------------------------------------------------------------------

CONFIGS = [
    LeaderConfig(),
    load_config(LeaderConfig(), None, ["teacher.gradient_checkpointing=true", "teacher.num_workers=2"]),
    load_config(
        LeaderConfig(), None, ["teacher.shard_backbone=true", "teacher.num_workers=4", "features.concurrency=2"]
    ),
    load_config(LeaderConfig(), None, ["resources.gpus_per_worker=0.5", "features.engine=transformers"]),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_that_is_named_exists(config: LeaderConfig) -> None:
    gpus = config.resources.gpus_per_worker
    sentences = [
        training_advice(config.teacher),
        warm_start_advice(config.teacher),
        student_advice(32),
        titles_advice(gpus),
        *features_advice(config),
        *engine_advice(gpus, 1),
        *serving_advice(config.features.engine, gpus, 1),
    ]
    named = set(re.findall(r"\b(?:teacher|student|features|prompt|resources|serve)\.\w+", " ".join(sentences)))
    assert len(named) > 5
    for name in named:
        section, setting = name.split(".")
        assert hasattr(getattr(config, section), setting), name


@pytest.mark.parametrize(
    ("settings", "named", "not_named"),
    [
        ([], ["micro_batch_tokens (2048)", "gradient_checkpointing=true", "shard_backbone=true", "--resume"], []),
        (["gradient_checkpointing=true"], ["micro_batch_tokens"], ["gradient_checkpointing"]),
        (["num_workers=2"], ["shard_backbone=true, then run"], ["num_workers"]),
        (["num_workers=2", "shard_backbone=true"], ["num_workers (2)"], ["shard_backbone"]),
    ],
)
def test_only_what_still_helps_is_named(settings: list[str], named: list[str], not_named: list[str]) -> None:
    config = load_config(LeaderConfig(), None, [f"teacher.{setting}" for setting in settings])
    advice = training_advice(config.teacher)
    assert all(part in advice for part in named), advice
    assert not any(part in advice for part in not_named), advice


def test_a_training_worker_that_ray_ended_is_explained() -> None:
    from ray.train import TrainingFailedError

    class WorkerError(TrainingFailedError):
        def __init__(self) -> None:
            Exception.__init__(self, "Training failed")
            self.worker_failures = {0: OutOfMemoryError("the node is running low on memory")}

    class Trainer:
        def fit(self) -> None:
            raise WorkerError

    with pytest.raises(RunError, match=r"teacher ran out of memory; lower teacher\.micro_batch_tokens \(64\)"):
        _fit(Trainer(), "teacher", training_advice(TeacherConfig(micro_batch_tokens=64)))


def test_the_warm_start_reads_as_many_prompts_as_fit() -> None:
    assert prompts_at_once(100, 8192) == 8
    assert prompts_at_once(2048, 8192) == 4
    assert prompts_at_once(2048, 64) == 1

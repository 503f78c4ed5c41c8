"""`python -m leader_jobs.speed REQUEST`: what a machine does with a language model, measured in a few seconds.

The measurement is a process of its own, in the environment that training gives its workers; its last line is a `Speed`
as JSON. `leader quickstart` plans by it, and `benchmarks/precision.py` compares precisions and depths by it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from leader_platform.config import TeacherConfig
from leader_platform.errors import RunError
from leader_platform.preload import preload_environment

# Shapes like the quickstart's: [prompts, tokens] of a batch that is read, and of an optimiser step.
_READ, _TRAIN = (8, 256), (4, 384)
_NUM_MEDICATIONS = 140


class SpeedRequest(BaseModel):
    """What to measure: a teacher's backbone, depth and precision, on so many threads; the best of `repeats`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: TeacherConfig
    num_threads: int
    use_gpu: bool = False
    repeats: int = 1


class Speed(BaseModel):
    """Tokens per second of reading and of a LoRA step, in the precision and at the depth that were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read_dtype: str
    train_dtype: str
    depth: float
    read_tokens_per_s: float
    train_tokens_per_s: float
    start_s: float  # from a process's begin until the libraries are imported


def measure_speed(request: SpeedRequest) -> Speed:
    """Measure in a process of its own. Raises `RunError` with its last line where that fails."""
    environment = os.environ | ({} if request.use_gpu else preload_environment())
    answer = subprocess.run(
        [sys.executable, "-m", "leader_jobs.speed", request.model_dump_json()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(f"The machine's speed could not be measured: {reason}")
    return Speed.model_validate_json(answer.stdout.splitlines()[-1])


def _measure(request: SpeedRequest) -> Speed:
    """In the process that measures."""
    import psutil
    import torch

    from leader_jobs.teacher_steps import gradient_scaler, optimizer_and_schedule, train_step
    from leader_platform.models.backbone import load_causal_lm
    from leader_platform.models.precision import choose, this_device
    from leader_platform.models.teacher import MedicationHead, Teacher, with_adapter
    from leader_platform.models.transformers_engine import TransformersEngine

    start_s = time.time() - psutil.Process().create_time()
    torch.set_num_threads(request.num_threads)
    torch.manual_seed(0)
    config, found = request.teacher, this_device(request.use_gpu)
    read_dtype, train_dtype = (choose(config.dtype, found, purpose) for purpose in ("inference", "training"))
    engine = TransformersEngine(config.backbone, read_dtype, config.pooling, config.depth)
    prompts = torch.randint(1000, 10_000, _READ).tolist()
    read_s = _best_of(request.repeats, lambda: engine.states(prompts, batch_size=len(prompts)))

    device = torch.device(found.kind)
    causal_lm = load_causal_lm(config.backbone, getattr(torch, train_dtype), config.depth)
    head = MedicationHead(causal_lm.config.get_text_config().hidden_size, _NUM_MEDICATIONS)
    model = Teacher(with_adapter(causal_lm, config), head, config.pooling).to(device).train()
    optimizer, _ = optimizer_and_schedule(model, config, 1000)
    scaler = gradient_scaler(train_dtype, device)
    tokens = torch.randint(1000, 10_000, _TRAIN).tolist()
    rows: list[dict[str, Any]] = [{"token_ids": ids, "label_indices": [1, 5], "previous_indices": []} for ids in tokens]
    train_s = _best_of(request.repeats, lambda: train_step(model, rows, 0, optimizer, None, config, scaler))
    return Speed(
        read_dtype=read_dtype,
        train_dtype=train_dtype,
        depth=config.depth,
        read_tokens_per_s=_READ[0] * _READ[1] / read_s,
        train_tokens_per_s=_TRAIN[0] * _TRAIN[1] / train_s,
        start_s=start_s,
    )


def _best_of(repeats: int, work: Callable[[], Any]) -> float:
    """Seconds of the fastest of `repeats` calls, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


if __name__ == "__main__":
    print(_measure(SpeedRequest.model_validate(json.loads(sys.argv[1]))).model_dump_json())

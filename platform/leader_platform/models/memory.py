"""Running out of memory, on a GPU or on the host, as a sentence that names the settings that help.

torch has a class for a GPU's memory and none for a CPU's, vLLM raises `ValueError`, Ray ends a worker or puts the
worker's error into a text. So an error is recognised by its class where there is one, else by its text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leader_platform.config import LeaderConfig, TeacherConfig
from leader_platform.errors import RunError, UserError, find_cause

_TEXTS = re.compile(
    "|".join(
        (
            # torch and CUDA: `CUDA out of memory. Tried to allocate`, `CUDA error: out of memory`; Ray's class by name
            r"out of memory",
            r"\w*OutOfMemoryError",
            r"\bMemoryError\b",
            r"_ArrayMemoryError",
            r"CU(BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED",
            r"can't allocate memory",  # torch on a CPU
            r"Cannot allocate memory",  # the kernel's ENOMEM
            r"low on memory",  # Ray's memory monitor
            # vLLM: gpu_worker, cpu_worker and kv_cache_utils at an engine's start
            r"No available memory for the cache blocks",
            r"less than desired (GPU|CPU) memory utilization",
            r"allocation is less than requested memory for kv",
            r"larger than the available KV cache",
            r"not enough GPU memory",
            r"Failed core proc\(s\): \{[^}]*: -9\b",  # the kernel ended the engine
        )
    )
)
# A cache too small for one prompt needs more memory, where everything else needs less.
_CACHE_TOO_SMALL = "larger than the available KV cache"
# vLLM's engine is a process of its own, which logs why it failed. Its parent knows no more than this; where the engine
# dies later, Ray Data's actor ends itself.
_CAUSE_IN_LOG = ("Engine core initialization failed", "EngineDeadError", "Worker unexpectedly exits")
_LOG_BYTES = 1_000_000

CONTINUE = "run the command again (`leader train` with --resume) to continue from the last checkpoint"


def says_out_of_memory(text: str) -> bool:
    """Whether a text, such as a log or a remote traceback, says that memory ran out."""
    return _TEXTS.search(text) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is running out of memory."""
    return says_out_of_memory(_text(error))


@contextmanager
def explain_out_of_memory(
    what: str, advice: str, cache_advice: str | None = None, read_log: Callable[[], str] | None = None
) -> Iterator[None]:
    """Turn running out of memory in the block into a `RunError`: "`what` ran out of memory; `advice`."

    `cache_advice` is for a vLLM cache that is too small for one prompt. `read_log` returns the log of vLLM's engine,
    by default this process's own, in which the engine writes.
    """
    try:
        yield
    except Exception as error:
        if find_cause(error, (UserError, RunError)) is not None:
            raise
        text = _text(error)
        if any(sign in text for sign in _CAUSE_IN_LOG):
            text += (read_log or own_log)()
        if not says_out_of_memory(text):
            raise
        chosen = cache_advice if cache_advice is not None and _CACHE_TOO_SMALL in text else advice
        raise RunError(f"{what} ran out of memory; {chosen}.") from error


def _text(error: BaseException) -> str:
    """The classes and messages of an error and its causes."""
    names = ((" ".join(kind.__name__ for kind in type(each).__mro__), each) for each in _chain(error))
    return "\n".join(f"{name}: {each}" for name, each in names)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, as Python and Ray link them."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [getattr(current, "cause", None), current.__cause__, current.__context__]


def own_log() -> str:
    """The end of what this process and its children wrote, where that goes to files, as it does in Ray's workers."""
    places = {os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in (1, 2)}
    return "\n".join(end_of_log(Path(place)) for place in sorted(places) if Path(place).is_file())


def end_of_log(file: Path) -> str:
    """The last part of a log file."""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _LOG_BYTES))
        return log.read().decode(errors="replace")


# --- what helps where ------------------------------------------------------------------------------------------------


def training_advice(config: TeacherConfig) -> str:
    """For the teacher's training: first what keeps its checkpoint, then what begins again."""
    keeping = [f"lower teacher.micro_batch_tokens ({config.micro_batch_tokens})"]
    if not config.gradient_checkpointing:
        keeping.append("set teacher.gradient_checkpointing=true")
    beginning = "a lower prompt.max_tokens or teacher.depth or a smaller backbone"
    if config.shard_backbone:
        beginning += f", or more teacher.num_workers ({config.num_workers}) to share the backbone,"
    elif config.num_workers > 1:
        keeping.append("set teacher.shard_backbone=true")
    else:
        beginning += ", or teacher.shard_backbone=true with teacher.num_workers=2 or more,"
    return f"{' or '.join(keeping)}, then {CONTINUE}; {beginning} starts from the beginning"


def warm_start_advice(config: TeacherConfig) -> str:
    """For reading states with the untuned backbone and fitting the head on them."""
    return (
        f"lower teacher.micro_batch_tokens ({config.micro_batch_tokens}), teacher.head_warm_start_samples "
        f"({config.head_warm_start_samples}), prompt.max_tokens or teacher.depth, use a smaller backbone, or set "
        "teacher.head_warm_start=false"
    )


def student_advice(batch_size: int) -> str:
    """For the student's training."""
    return f"lower student.batch_size ({batch_size}) or student.width, or use a larger machine"


def titles_advice(gpus: float) -> str:
    """For reading codes' titles."""
    on_cpu = "set resources.gpus_per_worker=0 to read them on the CPU, " if gpus else ""
    return f"{on_cpu}lower teacher.depth, use a smaller backbone, or set student.title_states=false"


def features_advice(config: LeaderConfig) -> tuple[str, str]:
    """For the teacher's features: what helps, and what helps where vLLM's cache is too small for a prompt."""
    if config.features.engine == "vllm":
        fewer = f", or lower features.concurrency ({config.features.concurrency})"
        more = fewer if config.features.concurrency > 1 else ""
        advice, cache = engine_advice(config.resources.gpus_per_worker, config.features.kv_cache_gb)
        return f"{advice}{more}; then {CONTINUE}", f"{cache}; then {CONTINUE}"
    advice = (
        f"lower features.batch_size ({config.features.batch_size}; the engine reads up to 8 prompts at once) or "
        f"features.concurrency ({config.features.concurrency}); then {CONTINUE}"
    )
    return advice, advice


def serving_advice(engine: str, gpus: float, kv_cache_gb: float) -> tuple[str, str]:
    """For a teacher that serves: what helps, and what helps where vLLM's cache is too small for a prompt."""
    alone = "`leader serve deploy --no-teacher` serves the student alone"
    if engine == "vllm":
        advice, cache_advice = engine_advice(gpus, kv_cache_gb)
        return f"{advice}; {alone}", f"{cache_advice}; {alone}"
    larger = "end other programs on the GPU or set" if gpus else "use a machine with more memory, or set"
    advice = f"{larger} serve.teacher_engine=vllm; {alone}"
    return advice, advice


def engine_advice(gpus: float, kv_cache_gb: float) -> tuple[str, str]:
    """The same for a vLLM engine, in features and in serving."""
    if gpus:
        advice = (
            f"end other programs on the GPU, or give the engine more than resources.gpus_per_worker={gpus:g} (a share "
            "of one GPU; 2 divides the model among two), or lower prompt.max_tokens or teacher.depth, which trains the "
            "teacher again"
        )
        return advice, advice
    larger = f"raise features.kv_cache_gb ({kv_cache_gb:g}), which must hold the longest prompt"
    return f"lower features.kv_cache_gb ({kv_cache_gb:g}) or use a machine with more memory", larger

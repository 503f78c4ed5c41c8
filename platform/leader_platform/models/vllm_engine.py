"""How vLLM is set up, in batch and in serving: engine arguments and the environment its process must start with.

The settings are measured (docs/LOG.md): on two cores they are worth a factor of 2.5 over vLLM's defaults.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from leader_platform.preload import preload_environment

# vLLM normalises embeddings unless told not to; the paper's h is the raw state after the final norm.
POOLING_PARAMS: dict[str, Any] = {"use_activation": False}


_GPU_MEMORY_SHARE = 0.85


def engine_arguments(dtype: str, max_tokens: int, pooling: str, gpus: float) -> dict[str, Any]:
    """Arguments of a pooling engine that computes in `dtype`, for prompts of at most `max_tokens` tokens; `pooling` is
    `last` or `mean`. `gpus` is what Ray gives the engine: none, a share of one, or several."""
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": max_tokens,
        "enforce_eager": True,
        "pooler_config": {"pooling_type": pooling.upper()},
    }
    if pooling == "mean":
        # A mean needs all of a prompt's tokens in one piece: none left to the next round, none taken from the cache.
        arguments |= {"enable_chunked_prefill": False, "enable_prefix_caching": False}
    return arguments | _gpu_arguments(gpus)


def _gpu_arguments(gpus: float) -> dict[str, Any]:
    """How the engine uses its GPUs: as much of one GPU's memory as its share, or all of several."""
    if gpus == 0:
        return {}
    arguments = {"gpu_memory_utilization": round(_GPU_MEMORY_SHARE * min(gpus, 1.0), 4)}
    if gpus <= 1:
        return arguments
    # One actor with all GPUs, which Ray places on one node, and vLLM's own processes in it: by Ray's executor the
    # engine's workers would be actors of their own, which may be placed on several nodes.
    return arguments | {"tensor_parallel_size": int(gpus), "distributed_executor_backend": "mp"}


def engine_environment(kv_cache_gb: float, on_gpu: bool, threads: int | None = None) -> dict[str, str]:
    """Variables for the engine's process, to be set before it starts; on a GPU no more than telemetry off.

    On a CPU vLLM keeps a core for itself and takes most memory for its cache unless told otherwise, and its kernels
    want Intel's OpenMP (installed beside vLLM) and, where the machine has it, tcmalloc. It binds a thread to every core
    that it may use, as would another engine beside it; with `threads` it has so many and leaves them to the system.
    """
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if on_gpu:
        return environment
    environment |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gb))), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    if threads is not None:
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    return environment | preload_environment()


class VllmEngine:
    """A merged teacher in vLLM's asynchronous pooling engine, for serving: each prompt joins the running batch."""

    def __init__(self, folder: str, dtype: str, max_tokens: int, pooling: str, gpus: float) -> None:
        import vllm

        arguments = engine_arguments(dtype, max_tokens, pooling, gpus)
        self.engine = vllm.AsyncLLMEngine.from_engine_args(
            vllm.AsyncEngineArgs(model=folder, runner="pooling", convert="embed", **arguments)
        )

    async def encode(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Raw pooled states float32 [prompts, hidden], in the prompts' order."""
        return np.stack(await asyncio.gather(*(self._encode_one(ids) for ids in token_ids)))

    async def _encode_one(self, token_ids: Sequence[int]) -> np.ndarray:
        import vllm
        from vllm.inputs import TokensPrompt

        params = vllm.PoolingParams(task="embed", **POOLING_PARAMS)
        prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        async for output in self.engine.encode(prompt, params, request_id=uuid.uuid4().hex):
            if output.finished:
                return output.outputs.data.float().cpu().numpy()
        raise RuntimeError("vLLM ended a request without an answer")

    def shut_down(self) -> None:
        """End the engine's own processes, which would outlive this one."""
        self.engine.shutdown()

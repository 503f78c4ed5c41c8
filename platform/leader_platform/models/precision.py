"""The floating-point format that a language model computes in: what `dtype: auto` means on the device at hand.

A format that the hardware does not multiply natively is emulated, and slower than float32. SmolLM2-135M on two cores,
tokens per second read, float32 and bfloat16: AVX2 alone 378 and 80, AVX512-BF16 690 and 1,336 (docs/LOG.md). `auto`
takes the fastest format that is native, so each machine gets its own; what was chosen is recorded with what it made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leader_platform.errors import UserError

Purpose = Literal["inference", "training"]

_CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # flags of /proc/cpuinfo
_CUDA_BFLOAT16 = (8, 0)  # compute capability
_EMULATED_COST = "about a fifth of the speed of float32"  # 80 against 378 tokens/s on AVX2 (measured)


@dataclass(frozen=True)
class Device:
    """What a process computes on, and the reduced-precision formats that it multiplies natively."""

    kind: Literal["cpu", "cuda"]
    native: frozenset[str]

    @classmethod
    def of_cpu(cls, flags: frozenset[str]) -> Device:
        """A CPU by its flags, as /proc/cpuinfo names them."""
        return cls("cpu", frozenset({"bfloat16"} if flags.intersection(_CPU_BFLOAT16) else ()))

    @classmethod
    def of_cuda(cls, capability: tuple[int, int]) -> Device:
        """A GPU by its compute capability."""
        return cls("cuda", frozenset({"float16", "bfloat16"} if capability >= _CUDA_BFLOAT16 else {"float16"}))

    def __str__(self) -> str:
        if self.kind == "cuda":
            return "this GPU" if "bfloat16" in self.native else "this GPU (compute capability below 8.0)"
        return "this CPU" if self.native else "this CPU (no AMX, no AVX512-BF16)"


def this_device(use_gpu: bool | None = None) -> Device:
    """The device of this process; of several GPUs, the weakest. `use_gpu` None: a GPU where the process has one."""
    if use_gpu is not False:
        import torch

        if torch.cuda.is_available():
            return Device.of_cuda(min(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())))
    return Device.of_cpu(cpu_flags(Path("/proc/cpuinfo")))


def cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """The first processor's flags; none where the file is not there or names none, as on macOS and ARM."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def choose(requested: str, device: Device, purpose: Purpose) -> str:
    """The torch dtype's name that `requested` means on `device`; what was asked by name is kept.

    `auto` is bfloat16 where it is native. An older GPU reads in float16 and trains in float32: float16's narrow range
    loses small gradients.
    """
    if requested != "auto":
        return requested
    if "bfloat16" in device.native:
        return "bfloat16"
    return "float16" if "float16" in device.native and purpose == "inference" else "float32"


def agreed(requested: str, devices: list[Device], purpose: Purpose) -> str:
    """One format for processes on all of `devices`: theirs where they choose alike, else float32, native everywhere."""
    chosen = {choose(requested, device, purpose) for device in devices}
    return chosen.pop() if len(chosen) == 1 else "float32"


def cost(dtype: str, device: Device) -> str | None:
    """One line about a format that `device` emulates; None for a native one."""
    if dtype == "float32" or dtype in device.native:
        return None
    return f"{dtype} is emulated on {device}, at {_EMULATED_COST}; dtype=auto takes the fastest native format."


def require_for_vllm(dtype: str, device: Device) -> None:
    """`UserError` for a format in which vLLM refuses to start."""
    if device.kind == "cuda" and dtype == "bfloat16" and dtype not in device.native:
        raise UserError(
            f"vLLM does not run bfloat16 on {device}; set features.dtype and serve.teacher_dtype to auto or float16."
        )

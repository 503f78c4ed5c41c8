"""Which precision each kind of machine gets: this one's decision, and that of machines that are not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from leader_platform.config import FeaturesConfig, LeaderConfig, ServeConfig, TeacherConfig
from leader_platform.errors import UserError
from leader_platform.models.precision import (
    Device,
    agreed,
    choose,
    cost,
    cpu_flags,
    require_for_vllm,
    this_device,
)
from leader_platform.settings import load_config

LAPTOP = Device.of_cpu(frozenset({"sse2", "avx", "avx2", "f16c", "fma"}))
AVX512 = Device.of_cpu(frozenset({"avx2", "avx512f", "avx512_vnni"}))
ZEN4 = Device.of_cpu(frozenset({"avx2", "avx512f", "avx512_bf16"}))
AMX = Device.of_cpu(frozenset({"avx512f", "amx_tile", "amx_bf16"}))
T4, V100, A100, H200 = (Device.of_cuda(capability) for capability in ((7, 5), (7, 0), (8, 0), (9, 0)))


@pytest.mark.parametrize(
    ("device", "inference", "training"),
    [
        (LAPTOP, "float32", "float32"),
        (AVX512, "float32", "float32"),  # AVX-512 alone has no products of bfloat16
        (ZEN4, "bfloat16", "bfloat16"),
        (AMX, "bfloat16", "bfloat16"),
        (T4, "float16", "float32"),
        (V100, "float16", "float32"),
        (A100, "bfloat16", "bfloat16"),
        (H200, "bfloat16", "bfloat16"),
    ],
)
def test_auto_is_the_fastest_native_format(device: Device, inference: str, training: str) -> None:
    assert choose("auto", device, "inference") == inference
    assert choose("auto", device, "training") == training
    assert cost(inference, device) is cost(training, device) is None


@pytest.mark.parametrize("requested", ["float32", "bfloat16", "float16"])
def test_what_is_asked_by_name_is_kept(requested: str) -> None:
    assert choose(requested, LAPTOP, "training") == requested


def test_an_emulated_format_names_its_cost() -> None:
    line = cost("bfloat16", LAPTOP)
    assert line is not None
    assert "\n" not in line
    assert "bfloat16 is emulated on this CPU (no AMX, no AVX512-BF16), at about a fifth" in line
    assert cost("float16", AMX) is not None
    assert cost("bfloat16", T4) is not None
    assert cost("float16", T4) is None
    assert cost("float32", LAPTOP) is None


def test_workers_of_one_kind_keep_its_format_and_mixed_ones_take_what_all_compute() -> None:
    assert agreed("auto", [AMX, ZEN4], "training") == "bfloat16"
    assert agreed("auto", [AMX, LAPTOP], "training") == "float32"
    assert agreed("auto", [T4, A100], "inference") == "float32"
    assert agreed("bfloat16", [AMX, LAPTOP], "training") == "bfloat16"


def test_vllm_is_not_started_in_a_format_that_it_refuses() -> None:
    with pytest.raises(UserError, match=r"vLLM does not run bfloat16 on this GPU .*below 8\.0.*auto or float16"):
        require_for_vllm("bfloat16", T4)
    for dtype, device in (("bfloat16", A100), ("float16", T4), ("bfloat16", LAPTOP), ("float32", T4)):
        require_for_vllm(dtype, device)


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nvmx flags\t: none\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor : 1\nflags : fpu\n")
    assert cpu_flags(file) == {"fpu", "avx2", "amx_bf16"}
    file.write_text("processor : 0\nFeatures : fp asimd bf16\n")  # ARM names no flags
    assert cpu_flags(file) == frozenset()
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_this_machine_is_described_as_its_kernel_does() -> None:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    native = "amx_bf16" in text or "avx512_bf16" in text
    assert this_device(use_gpu=False) == (AMX if native else LAPTOP)


def test_auto_is_the_default_everywhere_and_float16_can_be_asked_for() -> None:
    assert TeacherConfig().dtype == FeaturesConfig().dtype == ServeConfig().teacher_dtype == "auto"
    settings = ["teacher.dtype=float16", "features.dtype=float16", "serve.teacher_dtype=float16"]
    config = load_config(LeaderConfig(), None, settings)
    assert (config.teacher.dtype, config.features.dtype, config.serve.teacher_dtype) == ("float16",) * 3

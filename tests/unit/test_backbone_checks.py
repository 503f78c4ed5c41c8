"""What a backbone's configuration says before any work starts, and how work is divided among GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.small_llama import small_llama
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from leader_jobs import requests
from leader_jobs.checks import check_stages
from leader_jobs.placement import worker_bundle
from leader_platform.artifacts import EVALUATION, Run
from leader_platform.config import LeaderConfig, ResourcesConfig, TeacherConfig
from leader_platform.data.dataset import FORMAT_VERSION
from leader_platform.errors import UserError
from leader_platform.models.backbone_checks import (
    backbone_config,
    check_backbone,
    context_length,
    require_adapter,
    require_causal_lm,
    require_context,
    require_tensor_parallel,
)
from leader_platform.models.vllm_engine import engine_arguments
from leader_platform.settings import load_config


def rope(kind: str, factor: float) -> LlamaConfig:
    parameters = {"rope_type": kind, "factor": factor, "rope_theta": 10000.0}
    scaled = {"original_max_position_embeddings": 256} if kind in ("yarn", "llama3", "longrope") else {}
    bands = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    return LlamaConfig(max_position_embeddings=1024, rope_parameters={**parameters, **scaled, **bands})


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=256), 256),
        (AutoConfig.for_model("gpt2", n_positions=512), 512),
        (AutoConfig.for_model("mpt", max_seq_len=300), 300),
        (AutoConfig.for_model("opt", max_position_embeddings=700), 700),
        (AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 128}), 128),
        (AutoConfig.for_model("bloom"), None),
        (rope("linear", 4.0), 4096),
        (rope("dynamic", 2.0), 2048),
        (rope("yarn", 4.0), 1024),
        (rope("llama3", 8.0), 1024),
    ],
)
def test_the_context_length_is_what_vllm_derives(config: PreTrainedConfig, limit: int | None) -> None:
    assert context_length(config) == limit
    require_context("it", config, limit or 100_000)
    if limit is not None:
        with pytest.raises(UserError, match=rf"reads at most {limit} tokens, and prompt.max_tokens is {limit + 1}"):
            require_context("it", config, limit + 1)


def test_the_way_out_is_a_setting_that_is_valid() -> None:
    with pytest.raises(UserError, match=r"use --set prompt\.max_tokens=256\.$"):
        require_context("it", LlamaConfig(max_position_embeddings=256), 448)
    with pytest.raises(UserError, match=r"use another backbone\.$"):  # prompt.max_tokens is 64 or more
        require_context("it", LlamaConfig(max_position_embeddings=32), 448)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "bart", "clip", "whisper", "vit"])
def test_a_model_that_is_no_decoder_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"'{kind}', which is not a decoder-only"):
        require_causal_lm("it", AutoConfig.for_model(kind))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bloom", "qwen3", "gemma3", "gemma3_text", "mistral", "phi3"])
def test_decoders_are_taken(kind: str) -> None:
    require_causal_lm("it", AutoConfig.for_model(kind))


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"model_type": "martian"}', '{"model_type": "llama", "hidden_size": "x"}']
)
def test_a_folder_without_a_configuration_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path} has no readable config\.json .*check teacher\.backbone\.$"):
        backbone_config(str(tmp_path))


def test_a_name_that_is_neither_folder_nor_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(place: str) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(UserError, match="llama-7b is neither a folder nor a model to download"):
        backbone_config("llama-7b")
    with pytest.raises(UserError, match="is not a folder"):
        backbone_config("/nowhere/llama-7b")


@pytest.mark.parametrize("tokenizer", [None, "not JSON"])
def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path, tokenizer: str | None) -> None:
    small_llama(20).save_pretrained(tmp_path)
    if tokenizer is not None:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(UserError, match="has no readable tokenizer"):
        check_backbone(str(tmp_path))


def test_an_adapters_targets_are_looked_for() -> None:
    require_adapter(small_llama(20), TeacherConfig())
    with pytest.raises(UserError, match=r"c_attn.*change teacher\.lora_targets"):
        require_adapter(small_llama(20), TeacherConfig(lora_targets=("c_attn",)))


# --- GPUs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (0.0, {}),
        (0.25, {"gpu_memory_utilization": 0.2125}),
        (0.5, {"gpu_memory_utilization": 0.425}),
        (1.0, {"gpu_memory_utilization": 0.85}),
        (2.0, {"gpu_memory_utilization": 0.85, "tensor_parallel_size": 2, "distributed_executor_backend": "mp"}),
        (8.0, {"gpu_memory_utilization": 0.85, "tensor_parallel_size": 8, "distributed_executor_backend": "mp"}),
    ],
)
def test_an_engine_uses_the_gpus_that_it_was_given(gpus: float, expected: dict[str, Any]) -> None:
    without = engine_arguments("bfloat16", 512, "last", 0.0)
    assert engine_arguments("bfloat16", 512, "last", gpus) == {**without, **expected}


@pytest.mark.parametrize("gpus", [1.5, 2.25, 3.999])
def test_a_share_above_one_gpu_is_refused(gpus: float) -> None:
    with pytest.raises(UserError, match=rf"gpus_per_worker={gpus:g} is not possible.*such as {int(gpus)} or"):
        load_config(LeaderConfig(), None, [f"resources.gpus_per_worker={gpus}"])


@pytest.mark.parametrize(("gpus", "expected"), [(0, None), (0.5, 0.5), (1, 1), (4, 1)])
def test_what_computes_on_one_gpu_holds_no_more(gpus: float, expected: float | None) -> None:
    assert worker_bundle(ResourcesConfig(cpus_per_worker=1, gpus_per_worker=gpus)).get("GPU") == expected


@pytest.mark.parametrize(
    ("heads", "key_value_heads", "gpus", "possible"),
    [
        (9, 3, 2, "1, 3, 9"),
        (32, 8, 3, "1, 2, 4, 8, 16, 32"),
        (32, 32, 64, "1, 2, 4, 8, 16, 32"),
        (12, 4, 3, "1, 2, 4, 12"),
    ],
)
def test_gpus_that_do_not_divide_the_heads_are_refused(
    heads: int, key_value_heads: int, gpus: float, possible: str
) -> None:
    config = LlamaConfig(hidden_size=heads * 8, num_attention_heads=heads, num_key_value_heads=key_value_heads)
    with pytest.raises(UserError, match=rf"gpus_per_worker={gpus} GPUs; set it to one of {possible}\.$"):
        require_tensor_parallel("it", config, gpus)
    for number in (0, 0.5, *map(int, possible.split(", "))):
        require_tensor_parallel("it", config, number)


# --- before a stage, a search or an evaluation starts ----------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1024 tokens, 4 heads and 2 key-value heads, with a tokenizer but without weights."""
    from leader_platform.models.backbone import load_tokenizer

    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = load_tokenizer("smollm2")
    small_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(backbone: Path, *others: str) -> LeaderConfig:
    return load_config(LeaderConfig(), None, [f"teacher.backbone={backbone}", "prompt.max_tokens=512", *others])


@pytest.mark.parametrize(
    ("stage", "setting", "fault"),
    [
        ("teacher", "prompt.max_tokens=2048", "1024 tokens, and prompt.max_tokens is 2048"),
        ("teacher", "teacher.lora_targets=[c_attn]", "lora_targets"),
        ("titles", "teacher.backbone=/nowhere", "/nowhere"),
        ("features", "resources.gpus_per_worker=3", "4 attention heads"),
    ],
)
def test_stages_are_checked(backbone: Path, tmp_path: Path, stage: str, setting: str, fault: str) -> None:
    names = ["teacher", "features"] if stage == "features" else [stage]
    check_stages(names, Run(str(tmp_path)), settings(backbone))
    with pytest.raises(UserError, match=fault):
        check_stages(names, Run(str(tmp_path)), settings(backbone, setting))


def test_features_of_a_teacher_that_is_there_need_no_backbone(backbone: Path, tmp_path: Path) -> None:
    merged = tmp_path / "teacher" / "merged"
    merged.mkdir(parents=True)
    (merged / "config.json").write_bytes((backbone / "config.json").read_bytes())
    gone = settings(Path("/nowhere"))
    check_stages(["features"], Run(str(tmp_path)), gone)
    for setting in ("prompt.max_tokens=2048", "resources.gpus_per_worker=3"):
        with pytest.raises(UserError, match="merged"):
            check_stages(["features"], Run(str(tmp_path)), load_config(gone, None, [setting]))
    check_stages(["features"], Run(str(tmp_path)), load_config(gone, None, ["features.engine=transformers"]))


@pytest.mark.parametrize(("stage", "model"), [("teacher", "teacher"), ("distill", "student"), ("student", "student")])
def test_two_workers_on_one_gpu_are_refused(backbone: Path, tmp_path: Path, stage: str, model: str) -> None:
    shared = settings(backbone, f"{model}.num_workers=2", "resources.gpus_per_worker=0.5")
    with pytest.raises(UserError, match=rf"{model}\.num_workers=2 needs a GPU of its own"):
        check_stages([stage], Run(str(tmp_path)), shared)
    check_stages([stage], Run(str(tmp_path)), load_config(shared, None, ["resources.gpus_per_worker=1"]))


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("train", {"stage": "teacher"}),
        ("train", {"stage": "features"}),
        ("train", {"stage": "all"}),
        ("tune", {"trials": 2}),
        ("evaluate", {"settings": ["evaluate.protocol=cross-validation"]}),
        ("evaluate", {"settings": ["evaluate.num_seeds=2", "evaluate.models=[student]"]}),
        ("evaluate", {"settings": ["evaluate.models=[hidden_state_ridge]"]}),
    ],
)
def test_a_request_is_refused_before_ray_starts(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, others: dict[str, Any]
) -> None:
    started: list[str] = []

    class Started(Exception):  # noqa: N818
        pass

    def session(**_: Any) -> None:
        started.append(kind)
        raise Started

    monkeypatch.setattr(requests, "ray_session", session)
    described = {"format_version": FORMAT_VERSION, "fingerprint": "f", "flow": {}, "data_config": {}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(described))
    given = {name: value for name, value in others.items() if name != "settings"}

    def ask(*more: str) -> None:
        config = settings(backbone, *others.get("settings", []), *more)
        run, data = str(tmp_path / "run"), str(tmp_path / "data")
        requests.run_request(requests.Request(kind=kind, config=config, data=data, run=run, **given), print)

    with pytest.raises(
        UserError, match=r"1024 tokens, and prompt\.max_tokens is 1025; use --set prompt\.max_tokens=1024"
    ):
        ask("prompt.max_tokens=1025")
    assert not started


def test_an_evaluation_of_what_is_there_needs_no_backbone(backbone: Path, tmp_path: Path) -> None:
    from leader_jobs.evaluate import check

    run, gone = Run(str(tmp_path)), settings(Path("/nowhere"), "evaluate.protocol=cross-validation")
    with pytest.raises(UserError, match="/nowhere"):
        check(run, gone)
    with run.product(EVALUATION, "e", gone, {}):
        pass
    check(run, gone)
    check(Run(str(tmp_path / "other")), settings(Path("/nowhere")))  # judges what the run has

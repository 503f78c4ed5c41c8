"""The teacher's own LoRA layer and attention against peft's and torch's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners import lora
from support.small_llama import small_llama
from torch import Tensor
from transformers import LlamaModel

from leader_platform.config import TeacherConfig
from leader_platform.errors import UserError
from leader_platform.models.attention import _BlockedAttention
from leader_platform.models.lora import FusedLoraLinear, _drawn
from leader_platform.models.teacher import pad_tokens, pooled_states, with_adapter


def small_decoder() -> LlamaModel:
    return LlamaModel(small_llama(vocab_size=50))


def tuned(backbone: Any) -> Any:
    """The backbone with an adapter that says something."""
    torch.manual_seed(1)
    for name, weight in backbone.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return backbone


def ours(**settings: Any) -> Any:
    causal_lm: Any = SimpleNamespace(get_decoder=small_decoder)
    return tuned(with_adapter(causal_lm, TeacherConfig(**settings)))


def plain(targets: Any) -> Any:
    config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=8, lora_alpha=32, target_modules=targets)
    return tuned(get_peft_model(small_decoder(), config))


def states_and_gradients(backbone: Any) -> dict[str, Tensor]:
    prompts = [torch.arange(length).remainder(50).tolist() for length in (200, 3, 131)]
    states = pooled_states(backbone, *pad_tokens(prompts, padding_id=7))
    states.square().sum().backward()
    found = {name: weight.grad for name, weight in backbone.named_parameters() if weight.grad is not None}
    return found | {"states": states.detach()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_and_gradients_are_those_of_peft(checkpointing: bool) -> None:
    backbone = ours(gradient_checkpointing=checkpointing).train()
    assert sum(isinstance(module, FusedLoraLinear) for module in backbone.modules()) == 2 * 7
    expected = states_and_gradients(plain(list(TeacherConfig().lora_targets)))
    found = states_and_gradients(backbone)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_padding_does_not_change_a_prompts_state() -> None:
    backbone = ours().eval()
    prompt = [4, 8, 15, 16, 23, 42]
    alone = pooled_states(backbone, *pad_tokens([prompt], 7), "mean")
    beside = pooled_states(backbone, *pad_tokens([prompt, list(range(40))], 7), "mean")
    torch.testing.assert_close(beside[0], alone[0], atol=1e-6, rtol=1e-5)


def test_all_linear_takes_every_projection() -> None:
    assert states_and_gradients(ours(lora_targets="all-linear")).keys() == states_and_gradients(ours()).keys()


def test_a_target_that_the_backbone_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"query_key_value.*change teacher\.lora_targets"):
        ours(lora_targets=("query_key_value",))


def test_dropout_leaves_out_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    assert _drawn(torch.zeros(500, 401), 0.1).float().mean().item() == pytest.approx(0.1, abs=0.003)
    layer = lora.Linear(
        torch.nn.Linear(256, 1, bias=False), "a", config=LoraConfig(r=1, lora_alpha=1, lora_dropout=0.5), r=1
    )
    layer.__class__ = FusedLoraLinear
    torch.nn.init.ones_(layer.lora_A["a"].weight)
    torch.nn.init.ones_(layer.lora_B["a"].weight)
    torch.nn.init.zeros_(layer.get_base_layer().weight)
    rows = torch.ones(2000, 256, requires_grad=True)
    outputs = layer(rows)
    assert outputs.mean().item() == pytest.approx(256, rel=0.01)
    outputs.sum().backward()
    assert rows.grad is not None
    assert set(rows.grad.unique().tolist()) == {0.0, 2.0}  # nothing, or 1 / (1 - 0.5)
    torch.testing.assert_close(rows.grad.sum(dim=1, keepdim=True), outputs.detach())
    assert layer.eval()(rows).unique().tolist() == [256.0]


@pytest.mark.parametrize("tokens", [1, 127, 128, 300])
def test_blocked_attention_has_the_gradients_of_torchs(tokens: int) -> None:
    torch.manual_seed(0)
    shapes = {"query": (2, 6, tokens, 8), "key": (2, 3, tokens, 8), "value": (2, 3, tokens, 8)}
    inputs = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    of_output = torch.randn(shapes["query"])
    expected = F.scaled_dot_product_attention(**inputs, is_causal=True, scale=0.3, enable_gqa=True)
    gradients = torch.autograd.grad(expected, list(inputs.values()), of_output)
    found = _BlockedAttention.apply(*inputs.values(), 0.3)
    torch.testing.assert_close(found, expected)
    for ours_, theirs in zip(torch.autograd.grad(found, list(inputs.values()), of_output), gradients, strict=True):
        torch.testing.assert_close(ours_, theirs, atol=1e-5, rtol=1e-4)

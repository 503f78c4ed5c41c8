"""A teacher of the backbone's first layers: what is loaded, read and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_llama import small_llama
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from leader_jobs.teacher_checkpoint import export_memory_bytes
from leader_platform.models.backbone import kept_layers, load_causal_lm, load_tokenizer, num_parameters
from leader_platform.models.title_states import read_titles
from leader_platform.models.transformers_engine import TransformersEngine

TOKENS = torch.arange(24).reshape(2, 12) + 300


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six layers, random weights, the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = load_tokenizer("smollm2")
    config = small_llama(len(tokenizer))
    config.num_hidden_layers = 6
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("num_layers", "depth", "kept"), [(30, 1, 30), (30, 1 / 3, 10), (30, 2 / 3, 20), (6, 0.5, 3), (2, 0.1, 1)]
)
def test_a_share_of_the_layers_is_kept_one_at_least(num_layers: int, depth: float, kept: int) -> None:
    assert kept_layers(num_layers, depth) == kept


def test_a_shallow_backbone_computes_what_the_first_layers_of_the_whole_one_do(backbone: str) -> None:
    whole, shallow = (load_causal_lm(backbone, torch.float32, depth).eval() for depth in (1.0, 0.5))
    assert len(shallow.get_decoder().layers) == shallow.config.num_hidden_layers == 3
    with torch.inference_mode():
        middle = whole(TOKENS, output_hidden_states=True).hidden_states[3]
        expected = whole.get_decoder().norm(middle)
        torch.testing.assert_close(shallow.get_decoder()(TOKENS).last_hidden_state, expected)


def test_a_shallow_backbone_is_saved_as_a_model_of_its_own(backbone: str, tmp_path: Path) -> None:
    shallow = load_causal_lm(backbone, torch.float32, 1 / 3).eval()
    shallow.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(again) is LlamaForCausalLM
    assert again.config.num_hidden_layers == 2
    with torch.inference_mode():
        torch.testing.assert_close(again(TOKENS).logits, shallow(TOKENS).logits)


def test_a_list_with_an_entry_for_each_layer_is_cut_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=2,
    )
    assert len(config.layer_types) == 4
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    shallow = load_causal_lm(str(tmp_path), torch.float32, 0.5)
    assert shallow.config.num_hidden_layers == len(shallow.config.layer_types) == 2
    with torch.inference_mode():
        assert shallow(TOKENS).logits.shape == (2, 12, 400)


def test_parameters_are_counted_without_reading_weights(backbone: str) -> None:
    for depth in (1.0, 0.5):
        loaded = load_causal_lm(backbone, torch.float32, depth)
        assert num_parameters(backbone, depth) == sum(weight.numel() for weight in loaded.parameters())


def test_the_merge_asks_for_the_memory_of_the_layers_that_are_kept() -> None:
    whole, third = (export_memory_bytes("smollm2", depth) for depth in (1.0, 1 / 3))
    assert 1.42e9 < whole < 2e9  # 1.42 GB is its measured peak
    assert whole - third == 4 * 20 * 3_540_096  # a layer's weights


def test_the_engine_reads_with_the_layers_that_are_kept(backbone: str) -> None:
    shallow = load_causal_lm(backbone, torch.float32, 0.5).get_decoder().eval()
    with torch.inference_mode():
        expected = shallow(TOKENS).last_hidden_state[:, -1].numpy()
    states = TransformersEngine(backbone, "float32", depth=0.5).states(TOKENS.tolist())
    np.testing.assert_allclose(states, expected, atol=1e-5)


def test_titles_are_read_by_the_middle_layer_without_the_final_norm(backbone: str) -> None:
    texts = ["Essential hypertension", "Acute kidney failure, unspecified", "Fever"]
    tokenizer, whole = load_tokenizer(backbone), load_causal_lm(backbone, torch.float32).eval()
    with torch.inference_mode():
        expected = [
            whole(torch.tensor([tokenizer(text).input_ids]), output_hidden_states=True).hidden_states[2][0].mean(dim=0)
            for text in texts
        ]
    states = read_titles(texts, backbone, 1 / 3, "float32", num_threads=1)
    np.testing.assert_allclose(states, torch.stack(expected).numpy(), atol=1e-5)
    rounded = read_titles(texts, backbone, 1 / 3, "bfloat16", num_threads=1)
    np.testing.assert_allclose(rounded, states, atol=0.05 * np.abs(states).max())

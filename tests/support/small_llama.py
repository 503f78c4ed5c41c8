"""A LLaMA of two narrow layers with random weights, the same ones each time."""

import torch
from transformers import LlamaConfig


def small_llama(vocab_size: int, **others: int) -> LlamaConfig:
    """Its shape; `torch.manual_seed(0)` is called, so that a model made of it next always has the same weights."""
    torch.manual_seed(0)
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        **others,
    )

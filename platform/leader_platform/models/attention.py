"""Causal attention whose backward is fast on a CPU; elsewhere, and with a mask, it is transformers' `sdpa`.

torch's fused attention is fast forward, but its backward on a CPU takes seven times as long for 128 tokens, more than
the layer's matrix products. Here backward computes the probabilities again, block of queries by block, by plain matrix
products, and skips the keys that come after a block (docs/LOG.md has the figures).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "leader_blocked"
_BLOCK = 128  # queries; measured on 128 to 1,024 tokens against 64 and 256


class _BlockedAttention(torch.autograd.Function):
    """Queries [batch, heads, tokens, size], keys and values [batch, groups, tokens, size]: causal attention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        batch, heads, tokens, size = query.shape
        groups = key.shape[1]
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for start in range(0, tokens, _BLOCK):
            end = min(start + _BLOCK, tokens)
            # The heads of a group stand one below the other: a group's keys are then one matrix for all of them.
            grouped = (batch, groups, heads // groups * (end - start), size)
            queries = (query[:, :, start:end] * ctx.scaling).reshape(grouped)
            of_output = gradients[0][:, :, start:end].reshape(grouped)
            keys, values = key[:, :, :end], value[:, :, :end]
            scores = queries @ keys.transpose(-1, -2)
            _hide_later(scores.view(batch, heads, end - start, end)[..., start:])
            chances = torch.softmax(scores, -1)
            of_chances = of_output @ values.transpose(-1, -2)
            of_scores = torch.ops.aten._softmax_backward_data(of_chances, chances, -1, chances.dtype)  # in one pass
            of_query[:, :, start:end] = (of_scores @ keys).view(batch, heads, end - start, size) * ctx.scaling
            of_key[:, :, :end] += of_scores.transpose(-1, -2) @ queries
            of_value[:, :, :end] += chances.transpose(-1, -2) @ of_output
        return of_query, of_key, of_value, None


def _hide_later(scores: Tensor) -> None:
    """Minus infinity where a key comes after its query, in place; the last two dimensions are square."""
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    scores.masked_fill_(later, float("-inf"))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it; the result is [batch, tokens, heads, size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain = attention_mask is None and not dropout and others.get("is_causal") is not False
    if query.device.type != "cpu" or not plain or not query.requires_grad:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _BlockedAttention.apply(query, key, value, scaling).transpose(1, 2), None


def use_blocked_attention(decoder: Any) -> None:
    """Let a transformers model attend by this module's function."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    decoder.set_attn_implementation(NAME)

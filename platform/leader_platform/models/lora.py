"""LoRA's linear layer with a forward and a backward of its own: peft's sum in half as many passes over memory.

peft computes `W x + b + scaling * B A dropout(x)` as separate operations: the input is cast for the adapter, and the
output is scaled, added and cast again. With matrix products as fast as a CPU's or GPU's matrix units make them, these
passes cost more than the products. Here the low-rank part is added to the output in place, the adapter's master weights
(float32) are cast instead of the activations, and no more than the input and its rank-sized image is kept for backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn


class FusedLoraLinear(lora.Linear):
    """peft's LoRA layer around a frozen `nn.Linear`, for training and evaluation in the base weight's precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Inputs [..., in] to outputs [..., out], both in the base weight's dtype."""
        assert not self.merged, "a merged adapter needs no adapter's layer"
        (name,) = self.active_adapters
        dropout = self.lora_dropout[name]
        rate = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
        base, down, up = self.get_base_layer(), self.lora_A[name].weight, self.lora_B[name].weight
        return _LowRankSum.apply(x, base.weight, base.bias, down, up, self.scaling[name], rate)


class _LowRankSum(torch.autograd.Function):
    """y = x W^T + b + scaling * dropout(x) A^T B^T, with gradients for x, A [rank, in] and B [out, rank] alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float, rate: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = (down / (1 - rate)).to(x.dtype), (up * scaling).to(x.dtype)
        dropped = _drawn(rows, rate) if rate else None
        read = rows if dropped is None else rows.masked_fill(dropped, 0)
        low = read @ down.T  # [rows, rank]
        out = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        out.addmm_(low, up.T)
        ctx.save_for_backward(read, low, weight, down, up, dropped)
        ctx.scaling, ctx.rate = scaling, rate
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        read, low, weight, down, up, dropped = ctx.saved_tensors
        (of_output,) = gradients
        rows = of_output.reshape(-1, of_output.shape[-1])
        of_low = rows @ up
        of_down = (of_low.T @ read).float() / (1 - ctx.rate)
        of_up = (rows.T @ low).float() * ctx.scaling
        if not ctx.needs_input_grad[0]:  # the first layer's input, the embedding, is frozen
            return None, None, None, of_down, of_up, None, None
        of_input = rows @ weight
        if dropped is None:
            of_input.addmm_(of_low, down)
        else:
            of_input += (of_low @ down).masked_fill_(dropped, 0)
        return of_input.view(*of_output.shape[:-1], -1), None, None, of_down, of_up, None, None


def _drawn(like: Tensor, rate: float) -> Tensor:
    """True with probability `rate`, in the shape of `like`.

    A CPU draws random numbers on one core, one by one, and so for longer than it multiplies matrices: each draw of 64
    bits serves four elements there, which rounds `rate` to a multiple of 2**-16.
    """
    if like.device.type != "cpu":
        return torch.rand(like.shape, device=like.device) < rate
    bits = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (bits.view(torch.int16)[: like.numel()] < round(rate * 2**16) - 2**15).view(like.shape)

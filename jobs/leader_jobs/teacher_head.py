"""The head's warm start: fit it on the untuned backbone's states, then tune both from there.

A head that begins at nothing sends the adapter arbitrary gradients until it has learnt what the backbone already says
(Kumar and others 2022, "Fine-Tuning can Distort Pretrained Features": linear probing, then fine-tuning).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from leader_platform.config import TeacherConfig
from leader_platform.errors import UserError
from leader_platform.evaluation.metrics import average_precision
from leader_platform.features import matrix, probabilities
from leader_platform.models.renewal import Renewal
from leader_platform.models.teacher import MedicationHead, multi_hot
from leader_platform.models.transformers_engine import TransformersEngine

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

# L2 strengths on standardised states, strong ones first: each fit begins where the stronger one ended.
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_ITERATIONS = 40
_TOKENS_TO_TRAINING = 4  # times as many tokens as in training pass the model at once: no layer's are kept for backward
NO_LABELS = (
    "No validation sample has a medication that training knows, so the head's warm start cannot be judged; prepare the "
    "data from more patients, or set teacher.head_warm_start=false."
)


class ReadStates:
    """A Ray Data stage: tokens in, `hidden_state` of the untuned backbone out, labels beside it."""

    def __init__(
        self, config: TeacherConfig, num_threads: int, on_batch: Callable[[int], None] = lambda number: None
    ) -> None:
        torch.set_num_threads(num_threads)
        self.engine = TransformersEngine(config.backbone, config.dtype, config.pooling, config.depth)
        self.max_tokens = _TOKENS_TO_TRAINING * config.micro_batch_tokens
        self.on_batch = on_batch

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        token_ids = batch["token_ids"].to_pylist()
        at_once = prompts_at_once(max(map(len, token_ids)), self.max_tokens)
        states = self.engine.states(token_ids, at_once, on_batch=self.on_batch)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1)), states.shape[1])
        return batch.select(["label_indices", "previous_indices"]).append_column("hidden_state", lists)


def prompts_at_once(longest: int, max_tokens: int) -> int:
    """How many prompts of `longest` tokens a pass reads: 8, or as many as hold `max_tokens`, at least one."""
    return max(1, min(8, max_tokens // longest))


class Read(NamedTuple):
    """What `ReadStates` gave: states [samples, hidden], and [samples, medications] the targets and what the visit
    before had."""

    states: Tensor
    labels: Tensor
    given: Tensor

    @classmethod
    def of(cls, rows: Dataset, num_classes: int) -> Read:
        import pyarrow as pa

        table = pa.concat_tables(list(rows.iter_batches(batch_size=None, batch_format="pyarrow")))
        labels, given = (multi_hot(table[f"{name}_indices"].to_pylist(), num_classes) for name in ("label", "previous"))
        return cls(torch.from_numpy(matrix(table["hidden_state"])), labels, given > 0)


def fit_head(
    train: Read,
    validation: Read,
    class_frequency: Tensor,
    weights: Tensor | None,
    bias: bool,
    renewal: Renewal | None = None,
) -> tuple[MedicationHead, dict[str, Any]]:
    """The head of the L2 strength with the best validation PRAUC, and what it reached.

    `weights` are those of `label_weights`; what a `renewal` says is given, and the head learns the rest. It takes raw
    states: standardisation is folded into it, without centring where it has no bias.
    """
    if not validation.labels.any():
        raise UserError(NO_LABELS)
    states, labels, given = train
    with torch.no_grad():
        offsets = torch.zeros_like(labels) if renewal is None else renewal(given)
    scale = states.std(dim=0, correction=0).clamp(min=1e-6)
    centre = states.mean(dim=0) if bias else torch.zeros_like(scale)
    weight = torch.zeros(labels.shape[1], states.shape[1])
    prior = torch.logit(class_frequency.clamp(1e-4, 1 - 1e-4)) if bias else torch.zeros(labels.shape[1])
    best, told = None, {"prauc": -1.0}
    for strength in STRENGTHS:
        inputs = (states - centre) / scale
        weight, prior = _logistic_regression(inputs, labels, offsets, weight, prior, strength, weights, bias)
        head = _folded(weight, prior, centre, scale, bias, renewal)
        prauc = _prauc(head, validation)
        if prauc > told["prauc"]:
            best, told = head, {"prauc": prauc, "strength": strength, "samples": len(states)}
    assert best is not None
    return best, told


def _logistic_regression(
    states: Tensor,
    labels: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor,
    strength: float,
    weights: Tensor | None,
    free: bool,
) -> tuple[Tensor, Tensor]:
    """All classes at once by L-BFGS, from the given weight and bias; a bias that is not `free` stays. `offsets`
    [samples, medications] are log-odds that are known."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_(free)
    optimizer = torch.optim.LBFGS(
        [weight, bias] if free else [weight], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(states, weight, bias) + offsets
        each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="sum") / len(states)
        loss = each + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def _folded(
    weight: Tensor, bias: Tensor, centre: Tensor, scale: Tensor, has_bias: bool, renewal: Renewal | None
) -> MedicationHead:
    """The head that gives raw states what `weight` and `bias` give standardised ones, with the renewal beside it."""
    head = MedicationHead(weight.shape[1], weight.shape[0], bias=has_bias, renewal=renewal is not None)
    if head.renewal is not None and renewal is not None:
        head.renewal.load_state_dict(renewal.state_dict())
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        if has_bias:
            head.bias.copy_(bias - (weight / scale) @ centre)
    return head


def _prauc(head: MedicationHead, validation: Read) -> float:
    with torch.no_grad():
        scores = probabilities(head(validation.states, validation.given).numpy())
    return float(np.nanmean(average_precision(validation.labels.numpy().astype(bool), scores)))

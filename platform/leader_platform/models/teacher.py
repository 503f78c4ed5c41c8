"""The teacher: a causal language model whose output is a medication layer, so it can name no drug outside the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from leader_platform import storage
from leader_platform.errors import UserError
from leader_platform.models.renewal import Renewal

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from transformers import PreTrainedModel

    from leader_platform.config import TeacherConfig

HEAD_FILE = "head.safetensors"  # in a run's `teacher/`
MERGED = "merged"  # the folder beside it that vLLM and transformers load
Pooling = Literal["last", "mean"]


class MedicationHead(nn.Linear):
    """logits = W h (+ b), from hidden states [batch, hidden] to [batch, medications] (FIELD: y = sigmoid(W h)).

    Kept in float32 whatever the backbone computes in: it is small, and its gradients are what BCE gives. With a
    `renewal` the log-odds of what the visit before had are added (ours).
    """

    def __init__(self, hidden_size: int, num_medications: int, bias: bool = True, renewal: bool = False) -> None:
        super().__init__(hidden_size, num_medications, bias=bias, dtype=torch.float32)
        self.renewal = Renewal(num_medications) if renewal else None

    def forward(self, states: Tensor, given: Tensor | None = None) -> Tensor:
        """`given` [batch, medications] is what the visit before had, bool; a head without renewal needs none."""
        logits = super().forward(states)
        if self.renewal is None:
            return logits
        assert given is not None
        return logits + self.renewal(given)

    def logits(self, states: np.ndarray, previous: Sequence[Sequence[int]]) -> np.ndarray:
        """`forward` without gradients, of numpy's states and the label indices that each visit before had."""
        given = multi_hot(previous, self.out_features) > 0
        with torch.inference_mode():
            return self(torch.from_numpy(states), given).numpy()

    @classmethod
    def with_prior(cls, hidden_size: int, class_frequency: Tensor, renewal: bool = False) -> MedicationHead:
        """A head that begins as the popularity baseline: W = 0, b = log-odds of each class in training.

        `class_frequency` [medications] holds shares of training samples; classes of 0 or 1 are kept finite.
        """
        head = cls(hidden_size, len(class_frequency), renewal=renewal)
        frequency = class_frequency.clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.logit(frequency))
        return head


class Teacher(nn.Module):
    """Backbone (a decoder without its language-model head, LoRA inside) and medication head."""

    def __init__(self, backbone: PeftModel, head: MedicationHead, pooling: Pooling = "last") -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Right-padded tokens [batch, tokens] -> prompts' states [batch, hidden], logits [batch, medications]; `given`
        is as for the head."""
        states = pooled_states(self.backbone, input_ids, attention_mask, self.pooling)
        return states, self.head(states.float(), given)


def pooled_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor, pooling: Pooling = "last") -> Tensor:
    """The last layer's state (after the final norm) of each right-padded row, [batch, hidden]: that of its last real
    token (FIELD), or the mean of all its real tokens, in float32.

    The backbone itself needs no mask: a token attends to earlier ones alone, and padding comes last. Without one,
    attention can take its fast causal path.
    """
    states = backbone(input_ids=input_ids, use_cache=False).last_hidden_state
    lengths = attention_mask.sum(dim=1)
    if pooling == "mean":
        return (states.float() * attention_mask.unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1)
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def with_adapter(causal_lm: PreTrainedModel, config: TeacherConfig) -> PeftModel:
    """The decoder of `causal_lm` with trainable LoRA and all else frozen. The adapter's layers replace the decoder's in
    place, so merging the adapter later merges it into `causal_lm`. `UserError` for targets that it does not have."""
    from peft import LoraConfig, TaskType, get_peft_model

    from leader_platform.models.attention import use_blocked_attention
    from leader_platform.models.lora import FusedLoraLinear

    decoder = causal_lm.get_decoder()
    use_blocked_attention(decoder)
    if config.gradient_checkpointing:
        decoder.gradient_checkpointing_enable()
        decoder.enable_input_require_grads()
    everything = config.lora_targets == "all-linear"
    lora = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if everything else list(config.lora_targets),
    )
    lora._register_custom_module({nn.Linear: FusedLoraLinear})
    try:
        return get_peft_model(decoder, lora)
    except ValueError as error:
        raise UserError(
            f"The backbone {config.backbone} cannot take an adapter on {config.lora_targets} "
            f"({' '.join(str(error).split())[:120]}); change teacher.lora_targets."
        ) from error


def pad_tokens(token_ids: Sequence[Sequence[int]], padding_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded tokens and attention mask, both [batch, longest]."""
    longest = max(len(ids) for ids in token_ids)
    tokens = torch.full((len(token_ids), longest), padding_id, dtype=torch.long)
    mask = torch.zeros((len(token_ids), longest), dtype=torch.long)
    for row, ids in enumerate(token_ids):
        tokens[row, : len(ids)] = torch.as_tensor(ids)
        mask[row, : len(ids)] = 1
    return tokens, mask


def multi_hot(labels: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Label indices as float targets [batch, classes]."""
    targets = torch.zeros(len(labels), num_classes)
    for row, indices in enumerate(labels):
        targets[row, list(indices)] = 1
    return targets


def load_head(teacher_directory: str) -> MedicationHead:
    """The medication head of a run's `teacher/`, in float32."""
    from safetensors.torch import load

    weights = load(storage.read_bytes(storage.join(teacher_directory, HEAD_FILE)))
    num_classes, hidden_size = weights["weight"].shape
    renewal = any(name.startswith("renewal.") for name in weights)
    head = MedicationHead(hidden_size, num_classes, bias="bias" in weights, renewal=renewal)
    head.load_state_dict(weights)
    return head.requires_grad_(False)

"""The teacher: a causal language model whose output is a medication layer, so it can name no drug outside the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from leader_platform import storage

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from leader_platform.config import TeacherConfig

HEAD_FILE = "head.safetensors"  # in a run's `teacher/`
MERGED = "merged"  # the folder beside it that vLLM and transformers load


class MedicationHead(nn.Linear):
    """logits = W h (+ b), from hidden states [batch, hidden] to [batch, medications] (FIELD: y = sigmoid(W h)).

    Kept in float32 whatever the backbone computes in: it is small, and its gradients are what BCE gives.
    """

    @classmethod
    def with_prior(cls, hidden_size: int, class_frequency: Tensor) -> MedicationHead:
        """A head that begins as the popularity baseline: W = 0, b = log-odds of each class in training.

        `class_frequency` [medications] holds shares of training samples; classes of 0 or 1 are kept finite.
        """
        head = cls(hidden_size, len(class_frequency), dtype=torch.float32)
        frequency = class_frequency.clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.logit(frequency))
        return head


class Teacher(nn.Module):
    """Backbone (a decoder without its language-model head, LoRA inside) and medication head."""

    def __init__(self, backbone: PeftModel, head: MedicationHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Right-padded tokens [batch, tokens] -> last token's states [batch, hidden], logits [batch, medications]."""
        states = last_token_states(self.backbone, input_ids, attention_mask)
        return states, self.head(states.float())


def last_token_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last layer's state (after the final norm) at each row's last real token: [batch, hidden]."""
    states = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    last = attention_mask.sum(dim=1) - 1
    return states[torch.arange(len(states), device=states.device), last]


def with_adapter(causal_lm: PreTrainedModel, config: TeacherConfig) -> PeftModel:
    """The decoder of `causal_lm` with trainable LoRA and all else frozen. The adapter's layers replace the decoder's in
    place, so merging the adapter later merges it into `causal_lm`."""
    from peft import LoraConfig, TaskType, get_peft_model

    decoder = causal_lm.get_decoder()
    if config.gradient_checkpointing:
        decoder.gradient_checkpointing_enable()
        decoder.enable_input_require_grads()
    lora = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
    )
    return get_peft_model(decoder, lora)


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
    head = MedicationHead(hidden_size, num_classes, bias="bias" in weights, dtype=torch.float32)
    head.load_state_dict(weights)
    return head.requires_grad_(False)

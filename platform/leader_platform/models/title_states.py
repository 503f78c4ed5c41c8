"""A language model's reading of short texts, and how readings lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from leader_platform import storage
from leader_platform.features import list_column, matrix
from leader_platform.models.code_book import TitleReadings

if TYPE_CHECKING:
    from torch import Tensor

READINGS_FILE = "readings.parquet"
_TOKENS_A_BATCH = 2048


def read_titles(
    texts: Sequence[str],
    backbone: str,
    depth: float,
    dtype: str,
    num_threads: int,
    on_batch: Callable[[int], None] = lambda number: None,
) -> np.ndarray:
    """The mean over its tokens of each text's states in the layer at `depth` (0 to 1) of the backbone: float32
    [texts, hidden]. Later layers are not loaded; `dtype` is a torch dtype's name. `on_batch` gets the size of each
    batch that is done."""
    import torch

    from leader_platform.models.backbone import load_causal_lm, load_tokenizer
    from leader_platform.models.teacher import pad_tokens

    torch.set_num_threads(num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(backbone)
    decoder = load_causal_lm(backbone, getattr(torch, dtype), depth).get_decoder().eval().to(device)
    layer_states = _states_before_final_norm(decoder)
    token_ids = [tokenizer(text).input_ids or [tokenizer.eos_token_id] for text in texts]
    states = np.zeros((len(texts), decoder.config.hidden_size), np.float32)
    with torch.inference_mode():
        for chosen in _batches([len(ids) for ids in token_ids]):
            tokens, mask = (part.to(device) for part in pad_tokens([token_ids[i] for i in chosen], 0))
            weights = mask.unsqueeze(-1).float()
            means = (layer_states(tokens, mask).float() * weights).sum(dim=1) / weights.sum(dim=1)
            states[chosen] = means.cpu().numpy()
            on_batch(len(chosen))
    return states


def _states_before_final_norm(decoder: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A function from tokens and mask, both [batch, tokens], to what the decoder's last layer puts out [batch, tokens,
    hidden]. The norm after it is fitted to the last layer of the whole model, of which this may be a middle one."""
    from torch import nn

    (layers,) = (child for child in decoder.children() if isinstance(child, nn.ModuleList))
    outputs: list[Tensor] = []
    layers[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))

    def states(tokens: Tensor, mask: Tensor) -> Tensor:
        decoder(input_ids=tokens, attention_mask=mask, use_cache=False)
        output = outputs.pop()
        return output[0] if isinstance(output, tuple) else output

    return states


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Positions in batches of texts of like length, of `_TOKENS_A_BATCH` tokens at most with their padding."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > _TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(index)
    return batches if lengths else []


def readings_table(codes: Sequence[str], states: np.ndarray) -> pa.Table:
    """code and state, as `load_readings` reads them."""
    return pa.table({"code": list(codes), "state": list_column(states)})


def load_readings(directory: str) -> TitleReadings:
    """From a run's `titles/`."""
    table = storage.read_parquet(storage.join(directory, READINGS_FILE))
    return TitleReadings(table["code"].to_pylist(), matrix(table["state"]))

"""The second engine: prompts' states by transformers, for parity with vLLM and for machines without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from leader_platform.models.backbone import load_causal_lm, load_tokenizer

if TYPE_CHECKING:
    import numpy as np

    from leader_platform.models.teacher import Pooling


class TransformersEngine:
    """A merged teacher, or an untuned backbone, in this process. `folder` holds model and tokenizer, or is a backbone's
    name, of which a share `depth` of the layers is read; `dtype` is a torch dtype's name, or `auto`."""

    def __init__(self, folder: str, dtype: str, pooling: Pooling = "last", depth: float = 1.0) -> None:
        import torch

        from leader_platform.models.precision import choose, this_device

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = choose(dtype, this_device(), "inference")
        self.decoder = load_causal_lm(folder, getattr(torch, self.dtype), depth).get_decoder().eval().to(device)
        self.padding_id = load_tokenizer(folder).pad_token_id
        self.device, self.pooling = device, pooling

    def states(
        self,
        token_ids: Sequence[Sequence[int]],
        batch_size: int = 8,
        on_batch: Callable[[int], None] = lambda number: None,
    ) -> np.ndarray:
        """Raw pooled states float32 [prompts, hidden], in the prompts' order; batches are formed by length, and
        `on_batch` gets the size of each that is done."""
        import numpy as np
        import torch

        from leader_platform.models.teacher import pad_tokens, pooled_states

        order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
        states = np.zeros((len(token_ids), self.decoder.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                tokens, mask = pad_tokens([token_ids[index] for index in chosen], self.padding_id)
                batch = pooled_states(self.decoder, tokens.to(self.device), mask.to(self.device), self.pooling)
                states[chosen] = batch.float().cpu().numpy()
                on_batch(len(chosen))
        return states

    async def encode(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """`states` for an event loop, which goes on meanwhile."""
        return await asyncio.to_thread(self.states, token_ids)

    def shut_down(self) -> None:
        """Nothing to end: the model lives in this process."""

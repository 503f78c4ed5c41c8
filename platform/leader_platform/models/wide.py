"""The student's wide layer: from codes, their categories and their titles to logits, with nothing between.

What the deep part must learn from many patients, a linear layer takes from few ("wide and deep", Cheng et al. 2016). It
begins as the previous visit's shares and is held there by its penalty, so with few patients the student falls back on
these, and on popularity at a first visit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from leader_platform.models.code_book import SLOTS, CodeBook, WideInputs
from leader_platform.models.renewal import Renewal

# Titles against categories: at 4 one penalty suits both (measured on the MIMIC-IV demo, ridge).
_TITLE_SCALE = 4.0


@dataclass(frozen=True)
class WideBatch:
    """`WideInputs` of [batch] records as tensors."""

    categories: Tensor  # [numbers] of category and slot
    category_starts: Tensor  # [batch]
    rows: Tensor  # [codes] of the book
    row_starts: Tensor  # [batch x slots]
    row_scales: Tensor  # [batch x slots]
    counts: Tensor  # [batch, slots]
    given: Tensor  # bool [batch, medications] by the visit before

    @classmethod
    def of(cls, inputs: WideInputs) -> WideBatch:
        slots = inputs.categories.owners % len(SLOTS)
        return cls(
            torch.from_numpy(inputs.categories.values + slots * inputs.num_categories),
            torch.from_numpy(inputs.categories.starts[: -1 : len(SLOTS)].copy()),
            torch.from_numpy(inputs.rows.values),
            torch.from_numpy(inputs.rows.starts[:-1]),
            torch.from_numpy(_TITLE_SCALE / np.sqrt(inputs.rows.lengths.clip(min=1))).float(),
            torch.from_numpy(inputs.counts),
            torch.from_numpy(inputs.given()),
        )

    def to(self, device: torch.device) -> WideBatch:
        return WideBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class WideLayer(nn.Module):
    """Logits [batch, medications] to add to the deep part's."""

    states: Tensor

    def __init__(self, book: CodeBook, num_medications: int) -> None:
        super().__init__()
        self.num_categories = len(book.categories)
        self.categories = nn.EmbeddingBag(max(1, len(SLOTS) * self.num_categories), num_medications, mode="sum")
        self.counts = nn.Linear(len(SLOTS), num_medications, bias=False)
        nn.init.zeros_(self.categories.weight)
        nn.init.zeros_(self.counts.weight)
        self.register_buffer("states", torch.from_numpy(book.states), persistent=False)
        self.titles = nn.Linear(len(SLOTS) * book.states.shape[1], num_medications, bias=False) if book.rows else None
        if self.titles is not None:
            nn.init.zeros_(self.titles.weight)
        self.renewal = Renewal(num_medications)

    def forward(self, batch: WideBatch) -> Tensor:
        logits = self.categories(batch.categories, batch.category_starts) + self.counts(batch.counts)
        logits = logits + self.renewal(batch.given)
        if self.titles is None:
            return logits
        sums = nn.functional.embedding_bag(batch.rows, self.states, batch.row_starts, mode="sum")
        # Over the square root of their number: neither the sum, which grows with it, nor the mean, which forgets it.
        return logits + self.titles((sums * batch.row_scales.unsqueeze(1)).reshape(len(batch.counts), -1))

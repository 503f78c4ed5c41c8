"""Samples -> tokens: the Ray Data stage that both the teacher's training and its feature generation begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leader_platform.config import PromptConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.prompts import fit_prompt
from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord
from leader_platform.models.backbone import load_tokenizer

if TYPE_CHECKING:
    import pyarrow as pa

# What a prompt and its labels are made from: the columns of a sample that are worth reading.
SAMPLE_COLUMNS = ["sample_id", "history", *KINDS[:2], "labels", *PROFILE_FIELDS]


class Tokenise:
    """A Ray Data stage: samples in; `sample_id`, `token_ids` that fit the model, `label_indices` and `previous_indices`
    (of the visit before) out, other columns as they were. One tokenizer and one dictionary of titles a process."""

    def __init__(
        self, data_uri: str, tokenizer: str, prompt: PromptConfig, on_batch: Callable[[int], None] = lambda number: None
    ) -> None:
        data = PreparedData(data_uri)
        self.titles, self.vocabulary, self.prompt = data.titles, data.vocabulary, prompt
        self.tokenizer, self.on_batch = load_tokenizer(tokenizer), on_batch

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = batch.to_pylist()
        records = [PatientRecord.from_sample(row) for row in rows]
        columns = {
            "token_ids": [self._fitted(record) for record in records],
            "label_indices": [self.vocabulary.labels(row["labels"]) for row in rows],
            "previous_indices": [self.vocabulary.previous_labels(record) for record in records],
        }
        kept = batch.select([name for name in batch.column_names if name == "sample_id" or name not in SAMPLE_COLUMNS])
        for name, lists in columns.items():
            kept = kept.append_column(name, pa.array(lists, pa.list_(pa.int32())))
        self.on_batch(len(rows))
        return kept

    def _fitted(self, record: PatientRecord) -> list[int]:
        return fit_prompt(record, self.titles, self.prompt, lambda text: self.tokenizer(text).input_ids).token_ids

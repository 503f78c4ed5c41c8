"""The student: set encoders over codes, a visit encoder over stays, a profile as pseudo medication record (FIELD.md).

Computed on what is there: code sets and visits are packed into rows (`encoding.pack`), and not padded to 100 codes in
10 visits each as in the published code (FIELD, defect 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leader_platform.config import StudentConfig
from leader_platform.data.records import KINDS, PROFILE_FIELDS
from leader_platform.data.vocabulary import UNKNOWN, Vocabulary
from leader_platform.models.code_book import CodeBook
from leader_platform.models.encoding import EncodedRecords, Ragged, pack
from leader_platform.models.losses import alignment_loss, distillation_loss, recommendation_loss
from leader_platform.models.wide import WideBatch, WideLayer


@dataclass(frozen=True)
class Packed:
    """`encoding.Rows` as tensors."""

    items: Tensor  # [rows, width]
    groups: Tensor  # [rows, width]
    num_groups: int

    @classmethod
    def of(cls, groups: Ragged) -> Packed:
        rows = pack(groups)
        return cls(torch.from_numpy(rows.items), torch.from_numpy(rows.groups), rows.num_groups)

    def to(self, device: torch.device) -> Packed:
        return Packed(self.items.to(device), self.groups.to(device), self.num_groups)


@dataclass(frozen=True)
class StudentBatch:
    """What the student reads for [batch] samples."""

    sets: dict[str, Packed]  # per kind, the codes of its sets
    visits: Packed  # per kind and sample, its sets; the profiles count as sets of medications after all others
    profile: Tensor  # [batch, fields]
    wide: WideBatch | None

    def __len__(self) -> int:
        return len(self.profile)

    def to(self, device: torch.device) -> StudentBatch:
        sets = {kind: packed.to(device) for kind, packed in self.sets.items()}
        wide = None if self.wide is None else self.wide.to(device)
        return StudentBatch(sets, self.visits.to(device), self.profile.to(device), wide)


def collate(records: EncodedRecords, rows: np.ndarray) -> StudentBatch:
    """Some of the records as one batch."""
    visits = records.visits.take((rows * len(KINDS) + np.arange(len(KINDS))[:, None]).ravel())  # kind by kind
    sets = records.sets.take(visits.values)
    ends = np.cumsum(visits.lengths)[len(rows) - 1 :: len(rows)]  # of each kind's sets
    numbers = np.split(np.arange(len(sets)), ends[:-1])
    packed = {kind: Packed.of(sets.take(of_kind)) for kind, of_kind in zip(KINDS, numbers, strict=True)}
    wide = None if records.wide is None else WideBatch.of(records.wide.take(rows))
    profile = torch.from_numpy(records.profile[rows])
    return StudentBatch(packed, Packed.of(_with_profiles(visits, len(rows))), profile, wide)


def _with_profiles(visits: Ragged, batch_size: int) -> Ragged:
    """Sets of a batch by kind and sample, with each sample's profile before its sets of medications."""
    profiles = len(visits.values) + np.arange(batch_size)
    items = np.insert(np.arange(len(visits.values)), visits.starts[-batch_size - 1 : -1], profiles)
    lengths = visits.lengths
    lengths[-batch_size:] += 1  # medications are the last kind
    return Ragged(items, np.concatenate([[0], np.cumsum(lengths)]))


class StudentOutput(NamedTuple):
    """Logits [batch, medications], the layer that is distilled [batch, 2 d], and the profile vector [batch, d]."""

    logits: Tensor
    representation: Tensor
    profile: Tensor


class Student(nn.Module):
    """The paper's student over a vocabulary's codes. `teacher_width` adds the projection that distillation compares,
    `book` a wide layer (ours)."""

    def __init__(
        self,
        config: StudentConfig,
        vocabulary: Vocabulary,
        teacher_width: int | None = None,
        book: CodeBook | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.field_positions = [PROFILE_FIELDS.index(name) for name in config.profile_fields]
        num_codes = sum(len(vocabulary.codes[kind]) for kind in KINDS)
        self.codes = nn.Embedding(num_codes, width)  # one table for all kinds, `encoding.table_offsets`
        self.set_encoders = nn.ModuleDict({kind: _encoder(config) for kind in KINDS})
        self.visit_encoder = _encoder(config)
        self.fields = nn.ModuleList(
            nn.Embedding(len(vocabulary.profile[name]), width) for name in config.profile_fields
        )
        with torch.no_grad():
            for table in self.fields.parameters():
                table[UNKNOWN] = 0  # a value that training never saw says nothing
        self.profile_projection = nn.Linear(width * max(1, len(self.fields)), width)
        self.hidden = nn.Linear(3 * width, 2 * width)
        self.output = nn.Linear(2 * width, len(vocabulary.medications))
        self.dropout = nn.Dropout(config.dropout)
        self.to_teacher = nn.Linear(2 * width, teacher_width) if teacher_width else None
        self.wide = None if book is None else WideLayer(book, len(vocabulary.medications))

    def begin_with(self, class_frequency: Tensor) -> None:
        """Set the output's bias to the log-odds of each class in training [medications]: begin as popularity.

        Beside a wide layer the deep part begins as nothing more than that, and adds what the wide layer cannot say.
        """
        with torch.no_grad():
            self.output.bias.copy_(torch.logit(class_frequency.clamp(1e-4, 1 - 1e-4)))
            if self.wide is not None:
                self.output.weight.zero_()

    def forward(self, batch: StudentBatch) -> StudentOutput:
        profile = self.encode_profile(batch.profile)
        records = torch.cat([*(self.encode_sets(kind, batch.sets[kind]) for kind in KINDS), profile])
        kinds = self._encode_groups(self.visit_encoder, F.embedding(batch.visits.items, records), batch.visits)
        joined = torch.relu(kinds.view(len(KINDS), len(batch), -1).transpose(0, 1).flatten(1))  # [batch, 3 d]
        representation = self.hidden(self.dropout(joined))  # [batch, 2 d]
        logits = self.output(torch.relu(representation))
        if self.wide is not None:
            assert batch.wide is not None
            logits = logits + self.wide(batch.wide)
        return StudentOutput(logits, representation, profile)

    def encode_profile(self, profile: Tensor) -> Tensor:
        """[batch, fields] -> [batch, d]; a constant vector when the configuration switches all fields off."""
        if not self.fields:
            return self.profile_projection(self.codes.weight.new_zeros(len(profile), self.config.width))
        columns = [table(profile[:, at]) for table, at in zip(self.fields, self.field_positions, strict=True)]
        return self.profile_projection(torch.cat(columns, dim=-1))

    def encode_sets(self, kind: str, sets: Packed) -> Tensor:
        """Code sets of one kind -> their encodings [sets, d]."""
        return self._encode_groups(self.set_encoders[kind], self.codes(sets.items), sets)

    def _encode_groups(self, encoder: nn.Module, states: Tensor, packed: Packed) -> Tensor:
        """Encode each group's items together and take their mean: [rows, width, d] -> [groups, d]; zero for a group of
        nothing."""
        apart = packed.groups[:, :, None] != packed.groups[:, None, :]
        encoded = encoder(states, mask=apart.repeat_interleave(self.config.heads, dim=0)).flatten(0, 1)
        owners = packed.groups.flatten()
        # One group more: what is in none.
        sums = encoded.new_zeros(packed.num_groups + 1, encoded.shape[1]).index_add(0, owners, encoded)
        sizes = torch.bincount(owners, minlength=packed.num_groups + 1).clamp(min=1)
        return (sums / sizes.unsqueeze(1))[:-1]


class StudentLoss(nn.Module):
    """The student's whole loss as one module, so that a distributed wrapper sees a single forward pass."""

    def __init__(self, student: Student, config: StudentConfig) -> None:
        super().__init__()
        self.student = student
        self.config = config

    def forward(
        self, batch: StudentBatch, labels: Tensor, medications: Packed, teacher_states: Tensor | None
    ) -> Tensor:
        """BCE + alpha * distillation + beta * alignment, a scalar.

        `labels` [batch, medications] are 0/1; `medications` the same as code sets, which the alignment encodes;
        `teacher_states` [batch, hidden] None without a teacher, and then there is no distillation.
        """
        output = self.student(batch)
        loss = recommendation_loss(output.logits, labels)
        if teacher_states is not None:
            assert self.student.to_teacher is not None
            projected = self.student.to_teacher(output.representation)
            loss = loss + self.config.distillation_weight * distillation_loss(projected, teacher_states)
        current = self.student.encode_sets("medications", medications)
        alignment = alignment_loss(output.profile, current, self.config.alignment_temperature)
        return loss + self.config.alignment_weight * alignment


def _encoder(config: StudentConfig) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.width, config.heads, config.feed_forward, config.dropout, batch_first=True
    )
    return nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)

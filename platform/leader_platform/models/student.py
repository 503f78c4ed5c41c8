"""The student: set encoders over codes, a visit encoder over stays, a profile as pseudo medication record (FIELD.md).

Computed on what is there: a batch holds the code sets of its visits, each padded to the largest set of the batch, and
not 100 codes in 10 visits each as in the published code (FIELD, defect 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from leader_platform.config import StudentConfig
from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord
from leader_platform.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from leader_platform.models.losses import alignment_loss, distillation_loss, recommendation_loss


@dataclass(frozen=True)
class EncodedRecord:
    """A record as indices: per kind its visits' code sets (medications: of history alone), and the profile."""

    sets: dict[str, list[list[int]]]
    profile: list[int]


def encode_record(record: PatientRecord, vocabulary: Vocabulary) -> EncodedRecord:
    """The vocabulary's view of a record. The current visit's medications are never part of it: they are the answer.

    Codes that training never saw are left out: their common embedding was never trained, and would be noise.
    """
    visits = {kind: [*record.history, record.current] for kind in ("diagnoses", "procedures")}
    visits["medications"] = list(record.history)
    sets = {
        kind: [[i for i in vocabulary.encode(kind, getattr(visit, kind)) if i != UNKNOWN] for visit in visits[kind]]
        for kind in KINDS
    }
    return EncodedRecord(sets, vocabulary.encode_profile(record.profile))


@dataclass(frozen=True)
class CodeSets:
    """All non-empty code sets of one kind in a batch, and where each belongs."""

    codes: Tensor  # [sets, codes] indices, `PADDING` after a set's end
    sample: Tensor  # [sets] row of the batch
    visit: Tensor  # [sets] position of the visit in its sample
    num_visits: int  # most visits of a sample in the batch


@dataclass(frozen=True)
class StudentBatch:
    """What the student reads for [batch] samples."""

    sets: dict[str, CodeSets]
    profile: Tensor  # [batch, fields]

    def __len__(self) -> int:
        return len(self.profile)

    def to(self, device: torch.device) -> StudentBatch:
        moved = {
            kind: CodeSets(sets.codes.to(device), sets.sample.to(device), sets.visit.to(device), sets.num_visits)
            for kind, sets in self.sets.items()
        }
        return StudentBatch(moved, self.profile.to(device))


def collate(records: Sequence[EncodedRecord]) -> StudentBatch:
    """Records as one batch, padded no further than the batch needs."""
    sets = {kind: code_sets([record.sets[kind] for record in records]) for kind in KINDS}
    return StudentBatch(sets, torch.tensor([record.profile for record in records]))


def code_sets(samples: Sequence[Sequence[Sequence[int]]]) -> CodeSets:
    """The non-empty sets of samples x visits x codes."""
    places = [
        (row, position, codes)
        for row, visits in enumerate(samples)
        for position, codes in enumerate(visits)
        if len(codes)
    ]
    longest = max((len(codes) for _, _, codes in places), default=1)
    padded = torch.full((len(places), longest), PADDING, dtype=torch.long)
    for index, (_, _, codes) in enumerate(places):
        padded[index, : len(codes)] = torch.as_tensor(codes)
    rows = torch.tensor([row for row, _, _ in places], dtype=torch.long)
    positions = torch.tensor([position for _, position, _ in places], dtype=torch.long)
    return CodeSets(padded, rows, positions, max((len(visits) for visits in samples), default=0))


class StudentOutput(NamedTuple):
    """Logits [batch, medications], the layer that is distilled [batch, 2 d], and the profile vector [batch, d]."""

    logits: Tensor
    representation: Tensor
    profile: Tensor


class Student(nn.Module):
    """The paper's student over a vocabulary's codes; `teacher_width` adds the projection that distillation compares."""

    def __init__(self, config: StudentConfig, vocabulary: Vocabulary, teacher_width: int | None = None) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.field_positions = [PROFILE_FIELDS.index(name) for name in config.profile_fields]
        sizes = [len(vocabulary.codes[kind]) for kind in KINDS]
        # One table for all kinds; each kind's indices begin where the one before ends, with paddings of their own.
        self.offsets = dict(zip(KINDS, [0, sizes[0], sizes[0] + sizes[1]], strict=True))
        self.codes = nn.Embedding(sum(sizes), width)
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

    def begin_with(self, class_frequency: Tensor) -> None:
        """Set the output's bias to the log-odds of each class in training [medications]: begin as popularity."""
        with torch.no_grad():
            self.output.bias.copy_(torch.logit(class_frequency.clamp(1e-4, 1 - 1e-4)))

    def forward(self, batch: StudentBatch) -> StudentOutput:
        profile = self.encode_profile(batch.profile)
        kinds = [self._visits(kind, batch.sets[kind], len(batch)) for kind in ("diagnoses", "procedures")]
        kinds.append(self._visits("medications", batch.sets["medications"], len(batch), first_record=profile))
        joined = torch.relu(torch.cat(kinds, dim=-1))  # [batch, 3 d]
        representation = self.hidden(self.dropout(joined))  # [batch, 2 d]
        return StudentOutput(self.output(torch.relu(representation)), representation, profile)

    def encode_profile(self, profile: Tensor) -> Tensor:
        """[batch, fields] -> [batch, d]; a constant vector when the configuration switches all fields off."""
        if not self.fields:
            return self.profile_projection(self.codes.weight.new_zeros(len(profile), self.config.width))
        columns = [table(profile[:, at]) for table, at in zip(self.fields, self.field_positions, strict=True)]
        return self.profile_projection(torch.cat(columns, dim=-1))

    def encode_sets(self, kind: str, codes: Tensor) -> Tensor:
        """Code sets [sets, codes] -> their encodings [sets, d]."""
        absent = codes == PADDING
        encoded = self.set_encoders[kind](self.codes(codes + self.offsets[kind]), src_key_padding_mask=absent)
        return _masked_mean(encoded, ~absent)

    def _visits(self, kind: str, sets: CodeSets, batch_size: int, first_record: Tensor | None = None) -> Tensor:
        """The sets of one kind -> one vector a sample [batch, d], zero where there is nothing."""
        shift = 0 if first_record is None else 1
        states = self.codes.weight.new_zeros(batch_size, sets.num_visits + shift, self.config.width)
        present = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        if len(sets.codes):
            states[sets.sample, sets.visit + shift] = self.encode_sets(kind, sets.codes)
            present[sets.sample, sets.visit + shift] = True
        else:
            # Several workers average every gradient in every step, so each encoder takes part even with nothing to say.
            states = states + 0 * self.encode_sets(kind, sets.codes.new_full((1, 1), UNKNOWN)).sum()
        if first_record is not None:
            states[:, 0], present[:, 0] = first_record, True
        # Attention over a row with nothing in it is undefined; such rows attend to themselves and are masked after.
        blocked = ~present & present.any(dim=1, keepdim=True)
        return _masked_mean(self.visit_encoder(states, src_key_padding_mask=blocked), present)


class StudentLoss(nn.Module):
    """The student's whole loss as one module, so that a distributed wrapper sees a single forward pass."""

    def __init__(self, student: Student, config: StudentConfig) -> None:
        super().__init__()
        self.student = student
        self.config = config

    def forward(
        self, batch: StudentBatch, labels: Tensor, medications: Tensor, teacher_states: Tensor | None
    ) -> Tensor:
        """BCE + alpha * distillation + beta * alignment, a scalar.

        `labels` [batch, medications] are 0/1; `medications` [batch, codes] the same as vocabulary indices, which the
        alignment encodes; `teacher_states` [batch, hidden] None without a teacher, and then there is no distillation.
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


def _masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of [rows, items, d] over the items that `mask` [rows, items] keeps: [rows, d]; zero where it keeps none."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

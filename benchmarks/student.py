"""Training throughput of the distillation step beside a student that pads, and the time of one patient's answer.

Usage: python benchmarks/student.py [--threads 2] [--steps 20]

Patients are drawn to the size of LEADER's MIMIC-IV cohort: 2.6 visits, and in each 8.4 diagnoses, 2.1 procedures and 7
medications, from 2,000, 1,000 and 125 codes. The student is the default one, its wide layer reading categories and
titles too. A step is BCE, distillation against states of 576 numbers and alignment,
with dropout, backward pass and Adam. The padded student has the same weights, layers and losses, and reads 100 codes of
each kind in each of 10 visits, as the published code does; that both answer alike is checked first. The last line is
JSON: samples a second at batch 64, the ratio to the padded student there, and milliseconds for one patient's record.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from leader_platform.config import StudentConfig
from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import PADDING, SPECIAL, Vocabulary
from leader_platform.machine import usable_cores
from leader_platform.models.code_book import CodeBook, TitleReadings, encode
from leader_platform.models.encoding import Ragged, medication_sets
from leader_platform.models.losses import alignment_loss, distillation_loss, recommendation_loss
from leader_platform.models.student import Packed, Student, StudentLoss, StudentOutput, collate
from leader_platform.models.wide import WideBatch
from leader_platform.predict import Knowledge, StudentPredictor

NUM_CODES = {"diagnoses": 2000, "procedures": 1000, "medications": 125}
MEAN_CODES = {"diagnoses": 8.4, "procedures": 2.1, "medications": 7.0}
MEAN_VISITS = 2.7  # of the geometric distribution, which is cut at ten
TEACHER_WIDTH = 576
PADDED_CODES, PADDED_VISITS = 100, 10
BATCHES = (4, 64)
Step = Callable[[np.ndarray], Tensor]


def table(names: list[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate((*SPECIAL, *names))}


# Made-up codes that look like real ones, so that they have categories.
NAMES = {
    "diagnoses": [f"ICD10CM:{chr(65 + n % 26)}{n // 26:02d}{n % 10}" for n in range(NUM_CODES["diagnoses"])],
    "procedures": [f"ICD10PCS:0{n:03d}ZZ{n % 10}" for n in range(NUM_CODES["procedures"])],
    "medications": [f"ATC:{chr(65 + n % 14)}{n // 14:02d}A" for n in range(NUM_CODES["medications"])],
}
VOCABULARY = Vocabulary(
    codes={kind: table(names) for kind, names in NAMES.items()},
    profile={field: table([str(n) for n in range(8)]) for field in PROFILE_FIELDS},
)
CONFIG = StudentConfig(width=64)


def read_book() -> CodeBook:
    codes = [name for names in NAMES.values() for name in names]
    states = np.random.default_rng(3).standard_normal((len(codes), TEACHER_WIDTH)).astype(np.float32)
    return CodeBook.of(VOCABULARY, TitleReadings(codes, states), CONFIG.title_size)


def draw_visit(rng: np.random.Generator) -> Visit:
    """Numbers of codes spread as hospitals' do (Poisson of a gamma); only procedures may be none."""
    sets = {}
    for kind, mean in MEAN_CODES.items():
        least = 0 if kind == "procedures" else 1
        count = min(least + rng.poisson(rng.gamma(3, (mean - least) / 3)), PADDED_CODES)
        sets[kind] = tuple(NAMES[kind][n] for n in rng.choice(NUM_CODES[kind], count, replace=False))
    return Visit(**sets)


def draw_records(num_records: int, seed: int = 0) -> list[PatientRecord]:
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(num_records):
        visits = [draw_visit(rng) for _ in range(min(rng.geometric(1 / MEAN_VISITS), PADDED_VISITS))]
        profile = {field: str(rng.integers(8)) for field in PROFILE_FIELDS if field != "age"}
        records.append(PatientRecord(profile, tuple(visits[:-1]), visits[-1]))
    return records


class Cohort:
    """Drawn records, encoded, with labels and teacher states."""

    def __init__(self, records: list[PatientRecord], book: CodeBook) -> None:
        self.records, self.book = records, book
        self.encoded = encode(records, VOCABULARY, book)
        self.labels = Ragged.of([VOCABULARY.labels(record.current.medications) for record in records])
        self.current = medication_sets(self.labels, VOCABULARY)
        self.states = np.random.default_rng(1).standard_normal((len(records), TEACHER_WIDTH)).astype(np.float32)

    def targets(self, rows: np.ndarray) -> Tensor:
        labels = self.labels.take(rows)
        targets = torch.zeros(len(rows), NUM_CODES["medications"])
        targets[torch.from_numpy(labels.owners), torch.from_numpy(labels.values)] = 1
        return targets


class PaddedStudent(nn.Module):
    """A student's own layers, run on [batch, 10 visits, 100 codes] of each kind."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, codes: dict[str, Tensor], profile: Tensor, wide: WideBatch) -> StudentOutput:
        student = self.student
        first = student.encode_profile(profile)
        kinds = []
        for kind, sets in codes.items():
            visits = self.encode_sets(kind, sets.flatten(0, 1)).unflatten(0, sets.shape[:2])  # [batch, visits, d]
            present = (sets != PADDING).any(-1)
            if kind == "medications":
                visits = torch.cat([first.unsqueeze(1), visits], dim=1)
                present = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
            kinds.append(masked_encoding(student.visit_encoder, visits, present))
        joined = torch.relu(torch.cat(kinds, dim=-1))
        representation = student.hidden(student.dropout(joined))
        assert student.wide is not None
        return StudentOutput(student.output(torch.relu(representation)) + student.wide(wide), representation, first)

    def encode_sets(self, kind: str, codes: Tensor) -> Tensor:
        """[sets, 100] -> [sets, d]"""
        return masked_encoding(self.student.set_encoders[kind], self.student.codes(codes), codes != PADDING)


def masked_encoding(encoder: nn.Module, states: Tensor, present: Tensor) -> Tensor:
    """Encode [rows, items, d] and take the mean of the items that are there: [rows, d]."""
    blocked = ~present & present.any(dim=1, keepdim=True)  # a row of nothing attends to itself: it is dropped after
    weights = present.unsqueeze(-1).float()
    encoded = encoder(states, src_key_padding_mask=blocked)
    return (encoded * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def pad(cohort: Cohort) -> dict[str, Tensor]:
    """The codes of all records [records, 10, 100] a kind, as rows of the embedding table."""
    encoded, visits, padded = cohort.encoded, cohort.encoded.visits, {}
    for number, kind in enumerate(KINDS):
        codes = np.full((len(encoded), PADDED_VISITS, PADDED_CODES), PADDING)
        for record in range(len(encoded)):
            group = record * len(KINDS) + number
            for place, chosen in enumerate(visits.values[visits.starts[group] : visits.starts[group + 1]]):
                items = encoded.sets.values[encoded.sets.starts[chosen] : encoded.sets.starts[chosen + 1]]
                codes[record, place, : len(items)] = items
        padded[kind] = torch.from_numpy(codes)
    return padded


def pad_current(cohort: Cohort) -> Tensor:
    """The current visits' medications [records, 100]."""
    codes = np.full((len(cohort.records), PADDED_CODES), PADDING)
    lengths = cohort.current.lengths
    codes[np.arange(PADDED_CODES) < lengths[:, None]] = cohort.current.values
    return torch.from_numpy(codes)


def new_student(book: CodeBook) -> Student:
    torch.manual_seed(0)
    return Student(CONFIG, VOCABULARY, TEACHER_WIDTH, book)


def our_loss(cohort: Cohort) -> tuple[nn.Module, Step]:
    student = new_student(cohort.book)
    loss = StudentLoss(student, student.config)

    def of(rows: np.ndarray) -> Tensor:
        current = Packed.of(cohort.current.take(rows))
        states = torch.from_numpy(cohort.states[rows])
        return loss(collate(cohort.encoded, rows), cohort.targets(rows), current, states)

    return loss, of


def padded_loss(cohort: Cohort) -> tuple[nn.Module, Step]:
    padded = PaddedStudent(new_student(cohort.book))
    codes, current = pad(cohort), pad_current(cohort)
    config, to_teacher = padded.student.config, padded.student.to_teacher
    assert to_teacher is not None

    def of(rows: np.ndarray) -> Tensor:
        chosen = torch.from_numpy(rows)
        profile = torch.from_numpy(cohort.encoded.profile[rows])
        assert cohort.encoded.wide is not None
        wide = WideBatch.of(cohort.encoded.wide.take(rows))
        output = padded({kind: codes[kind][chosen] for kind in KINDS}, profile, wide)
        medications = padded.encode_sets("medications", current[chosen])
        states = torch.from_numpy(cohort.states[rows])
        return (
            recommendation_loss(output.logits, cohort.targets(rows))
            + config.distillation_weight * distillation_loss(to_teacher(output.representation), states)
            + config.alignment_weight * alignment_loss(output.profile, medications, config.alignment_temperature)
        )

    return padded, of


def samples_per_second(model: nn.Module, loss_of: Step, batch_size: int, num_samples: int, num_steps: int) -> float:
    """By the median step, after two to warm up."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    rng = np.random.default_rng(2)
    model.train()
    seconds = []
    for _ in range(num_steps + 2):
        rows = rng.choice(num_samples, batch_size, replace=False)
        began = time.perf_counter()
        loss = loss_of(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return batch_size / float(np.median(seconds[2:]))


def require_same_losses(ours: tuple[nn.Module, Step], padded: tuple[nn.Module, Step]) -> None:
    rows = np.arange(32)
    values = []
    for model, loss_of in (ours, padded):
        model.eval()
        with torch.no_grad():
            values.append(loss_of(rows))
    torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=0)


def milliseconds_for_one(cohort: Cohort) -> float:
    """Median over records, each encoded and answered by itself, as serving does."""
    about = {"temperature": 1.0, "threshold": 0.5, "version": "benchmark", "max_history_visits": 20}
    predictor = StudentPredictor(new_student(cohort.book), Knowledge(VOCABULARY, {}), cohort.book, **about)
    seconds = []
    for record in cohort.records:
        began = time.perf_counter()
        predictor.predict([record])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[10:])) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, usable_cores()))
    parser.add_argument("--steps", type=int, default=20, help="steps of ours; the padded student takes a fifth")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cohort = Cohort(draw_records(512), read_book())
    visits = [visit for record in cohort.records for visit in (*record.history, record.current)]
    counts = ", ".join(f"{np.mean([len(getattr(visit, kind)) for visit in visits]):.1f} {kind}" for kind in KINDS)
    print(f"{len(visits) / len(cohort.records):.1f} visits a patient; a visit has {counts}")
    ours, padded = our_loss(cohort), padded_loss(cohort)
    require_same_losses(ours, padded)
    print(f"{'batch':>6}{'samples/s':>12}{'padded':>10}{'ratio':>8}")
    for batch_size in BATCHES:
        fast = samples_per_second(*ours, batch_size, len(cohort.records), arguments.steps)
        slow = samples_per_second(*padded, batch_size, len(cohort.records), max(1, arguments.steps // 5))
        print(f"{batch_size:>6}{fast:>12.0f}{slow:>10.1f}{fast / slow:>8.1f}")
    torch.set_num_threads(1)  # as in a replica that serves: one record is too little to share
    single = milliseconds_for_one(cohort)
    print(f"one patient: {single:.2f} ms")
    # The last batch is the one that is asked for.
    print(
        json.dumps(
            {"samples_per_s": round(fast), "ratio_to_padded": round(fast / slow, 1), "single_ms": round(single, 2)}
        )
    )


if __name__ == "__main__":
    main()

"""What a shallower teacher costs in quality and gains in speed, judged by validation patients alone.

Usage: python benchmarks/depth.py --data DIR [--recipe R] [--depths 1 0.667 0.333] [--pooling mean] [--steps 24]

`DIR` is a prepared data set; its test split is not read. For each share of the backbone's layers the head is fitted on
the untuned states of the training samples, then adapter and head are tuned for `--steps` steps from there, as the stage
`teacher` does, with the recipe's settings. PRAUC on the validation samples before and after, each with the difference
from the first depth and its 95 % interval by patient; tokens per second of reading and of tuning.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from leader_jobs.teacher_head import Read, fit_head
from leader_jobs.teacher_steps import Row, micro_batches, optimizer_and_schedule, train_step
from leader_jobs.tokens import SAMPLE_COLUMNS, Tokenise
from leader_jobs.training import begin_renewal, class_frequency
from leader_platform.config import TeacherConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.evaluation.metrics import average_precision
from leader_platform.models.backbone import load_causal_lm, load_tokenizer
from leader_platform.models.precision import choose, this_device
from leader_platform.models.renewal import Renewal
from leader_platform.models.teacher import MedicationHead, Teacher, multi_hot, pad_tokens, with_adapter
from leader_platform.models.transformers_engine import TransformersEngine
from leader_platform.recipes import recipe

REPLICATES = 2000


class Cohort:
    """Tokens and labels of a data set's training and validation samples."""

    def __init__(self, uri: str, arguments: argparse.Namespace) -> None:
        self.data = PreparedData(uri)
        config = recipe(arguments.recipe)
        tokenise = Tokenise(uri, config.teacher.backbone, config.prompt)
        samples = {
            split: self.data.samples(split, [*SAMPLE_COLUMNS, "subject_id"]) for split in ("train", "validation")
        }
        self.rows = {split: tokenise(table.select(SAMPLE_COLUMNS)).to_pylist() for split, table in samples.items()}
        self.patients = samples["validation"]["subject_id"].to_numpy()
        self.frequency = class_frequency(self.data)

    def read(self, engine: TransformersEngine, split: str) -> Read:
        states = engine.states([row["token_ids"] for row in self.rows[split]])
        labels, given = (
            multi_hot([row[f"{name}_indices"] for row in self.rows[split]], len(self.frequency))
            for name in ("label", "previous")
        )
        return Read(torch.from_numpy(states), labels, given > 0)


def num_tokens(rows: Sequence[Row]) -> int:
    return sum(len(row["token_ids"]) for row in rows)


def praucs(cohort: Cohort, logits: torch.Tensor) -> np.ndarray:
    """Average precision of each validation sample; NaN for one without a label."""
    labels = multi_hot([row["label_indices"] for row in cohort.rows["validation"]], len(cohort.frequency))
    return average_precision(labels.numpy().astype(bool), torch.sigmoid(logits).numpy())


def fitted_head(cohort: Cohort, config: TeacherConfig, depth: float) -> tuple[MedicationHead, np.ndarray, float]:
    """The head on the untuned states, its PRAUC on each validation sample, and tokens read in a second."""
    engine = TransformersEngine(config.backbone, config.dtype, config.pooling, depth)
    began = time.perf_counter()
    train, validation = (cohort.read(engine, split) for split in ("train", "validation"))
    rate = sum(num_tokens(rows) for rows in cohort.rows.values()) / (time.perf_counter() - began)
    renewal = Renewal(len(cohort.frequency)) if config.renewal else None
    if renewal is not None:
        begin_renewal(renewal, train.given.numpy(), train.labels.numpy() > 0, cohort.frequency)
    head, _ = fit_head(train, validation, cohort.frequency, None, config.head_prior_bias, renewal)
    with torch.no_grad():
        return head, praucs(cohort, head(validation.states, validation.given)), rate


def tuned(cohort: Cohort, config: TeacherConfig, head: MedicationHead, steps: int) -> tuple[np.ndarray, float]:
    """PRAUC on each validation sample after `steps` steps from the fitted head, and tokens tuned on in a second."""
    torch.manual_seed(config.seed)
    causal_lm = load_causal_lm(config.backbone, getattr(torch, config.dtype), config.depth)
    model = Teacher(with_adapter(causal_lm, config), head.requires_grad_(True), config.pooling).train()
    padding_id = load_tokenizer(config.backbone).pad_token_id
    optimizer, scheduler = optimizer_and_schedule(model, config, steps)
    seconds, tokens = 0.0, 0
    for rows in drawn_batches(cohort.rows["train"], config, steps):
        began = time.perf_counter()
        tokens += train_step(model, rows, padding_id, optimizer, None, config)[1]
        scheduler.step()
        seconds += time.perf_counter() - began
    return praucs(cohort, _logits(model.eval(), cohort, padding_id, config)), tokens / seconds


def drawn_batches(rows: Sequence[Row], config: TeacherConfig, steps: int) -> Iterator[list[Row]]:
    size = config.batch_size * config.gradient_accumulation
    generator = np.random.default_rng(config.seed)
    for _ in range(steps):
        yield [rows[index] for index in generator.choice(len(rows), size, replace=False)]


@torch.no_grad()
def _logits(model: Teacher, cohort: Cohort, padding_id: int, config: TeacherConfig) -> torch.Tensor:
    logits = torch.zeros(len(cohort.patients), len(cohort.frequency))
    rows = [{**row, "at": at} for at, row in enumerate(cohort.rows["validation"])]
    for batch in micro_batches(rows, config.micro_batch_tokens):
        tokens, mask = pad_tokens([row["token_ids"] for row in batch], padding_id)
        given = multi_hot([row["previous_indices"] for row in batch], len(cohort.frequency)) > 0
        logits[[row["at"] for row in batch]] = model(tokens, mask, given)[1].float()
    return logits


def difference(found: np.ndarray, reference: np.ndarray, patients: np.ndarray) -> tuple[float, float, float]:
    """Mean paired difference and its 95 % interval, by draws of patients."""
    kept = ~np.isnan(reference)
    each, (_, owners) = (found - reference)[kept], np.unique(patients[kept], return_inverse=True)
    sums, counts = np.bincount(owners, each), np.bincount(owners)
    draws = np.random.default_rng(0).integers(len(sums), size=(REPLICATES, len(sums)))
    low, high = np.quantile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), [0.025, 0.975])
    return each.mean(), low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--depths", type=float, nargs="+", default=[1.0, 2 / 3, 1 / 3])
    parser.add_argument("--pooling", choices=["last", "mean"], help="[the recipe's]")
    parser.add_argument("--steps", type=int, default=24, help="0: the head alone is fitted.")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cohort, settings = Cohort(arguments.data, arguments), recipe(arguments.recipe).teacher
    pooling = arguments.pooling or settings.pooling
    dtype = choose(settings.dtype, this_device(), "training")
    print(
        f"{len(cohort.rows['train'])} training and {len(cohort.patients)} validation samples, {dtype}, "
        f"pooling {pooling}"
    )
    print("depth  head fitted              tuned                    read tokens/s  tune tokens/s")
    reference: list[np.ndarray] = []
    result: dict[str, Any] = {}
    for depth in arguments.depths:
        config = settings.model_copy(update={"depth": depth, "dtype": dtype, "pooling": pooling})
        head, fitted, read_rate = fitted_head(cohort, config, depth)
        after, tune_rate = tuned(cohort, config, head, arguments.steps) if arguments.steps else (fitted, 0.0)
        reference = reference or [fitted, after]
        cells = []
        for found, first in zip((fitted, after), reference, strict=True):
            mean, low, high = difference(found, first, cohort.patients)
            cells.append(f"{np.nanmean(found):.4f} {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
        print(f"{depth:5.3f}  {cells[0]}  {cells[1]}  {read_rate:13.0f}  {tune_rate:13.0f}", flush=True)
        result[f"{depth:.3f}"] = {"fitted": float(np.nanmean(fitted)), "tuned": float(np.nanmean(after))}
    print(json.dumps({"validation_prauc": result}))


if __name__ == "__main__":
    main()

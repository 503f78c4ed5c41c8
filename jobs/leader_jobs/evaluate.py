"""Stage `evaluate`: every model's answers under a protocol -> metrics with intervals, paired differences, and a page.

    parts (folds, seeds) --train--> products --answer--> answers --judge--> evaluation/

`evaluation/` holds `metrics.json`, `details.json` (curves and classes), `samples.parquet` (each sample's metrics, so
that runs can be compared sample by sample) and `report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_jobs import pipeline
from leader_jobs.answers import TRAINED, Answer, answer, answer_key, has, train
from leader_jobs.checks import check_stages
from leader_jobs.costs import costs, training_curves
from leader_jobs.protocol import Part, num_parts, parts
from leader_platform import storage
from leader_platform.artifacts import EVALUATION, Run
from leader_platform.config import EvaluateConfig, LeaderConfig, fingerprint
from leader_platform.data.dataset import PreparedData
from leader_platform.data.interactions import between_classes, interaction_matrix
from leader_platform.errors import UserError
from leader_platform.evaluation import metrics
from leader_platform.evaluation.cases import (
    GROUP_COLUMNS,
    Answers,
    Cases,
    in_columns,
    make_groups,
    rarest_third,
    unseen_diagnoses,
)
from leader_platform.evaluation.summary import details, summarise
from leader_platform.evaluation_report import evaluation_page
from leader_platform.progress import Progress
from leader_platform.runs import METRICS_FILE, SAMPLES_FILE

DETAILS_FILE, PAGE_FILE = "details.json", "report.html"


def evaluate(
    data: PreparedData, run: Run, config: LeaderConfig, progress: Progress, force: bool = False
) -> dict[str, Any]:
    """Judge the models of `config.evaluate` and write `evaluation/`; returns what is in `metrics.json`.

    A cross-validation, or a split with several seeds, trains what is missing, fold by fold; the single split judges
    what the run has. Thresholds are tuned on validation samples alone.
    """
    done, keys = [], []
    total = num_parts(config.evaluate)
    with progress.task("Evaluation", total if total > 1 else None, "parts") as evaluation:
        for part in parts(data, run, config, progress):
            if trains(config.evaluate):
                train(part, config.evaluate.models, progress)
            models = [name for name in config.evaluate.models if has(part, name)]
            answers: dict[str, Answer] = {}
            with progress.task("Answers", len(models), "models") as task:
                for name in models:
                    task.update(model=name)
                    answers[name] = answer(part, name, progress)
                    task.advance()
            done.append((part, answers))
            keys += [answer_key(part, name) for name in models]
            evaluation.advance()
    key = fingerprint(EVALUATION, data.fingerprint, config.evaluate, keys)
    if not force and run.is_current(EVALUATION, key):
        return storage.read_json(run.path(EVALUATION, METRICS_FILE))
    with progress.task("Metrics and their intervals"):
        return _judge(data, run, config, key, done)


def check(run: Run, config: LeaderConfig) -> None:
    """Whether what an evaluation trains and reads can be; nothing is started. `UserError` as in `check_stages`.

    A run that was evaluated before may have all of it, and need its backbone no more: there each part is checked when
    it is trained.
    """
    if run.has(EVALUATION):
        return
    models = config.evaluate.models
    if trains(config.evaluate):
        stages = [pipeline.with_needs(TRAINED[name].stage, config) for name in models if name in TRAINED]
        check_stages([name for names in stages for name in names], run, config)
    if "hidden_state_ridge" in models:
        from leader_platform.models.backbone_checks import check_backbone

        check_backbone(config.teacher.backbone, config.prompt.max_tokens)


def trains(settings: EvaluateConfig) -> bool:
    """Whether an evaluation makes the models that it judges."""
    return settings.protocol == "cross-validation" or settings.num_seeds > 1


def _judge(
    data: PreparedData,
    run: Run,
    config: LeaderConfig,
    key: str,
    done: Sequence[tuple[Part, Mapping[str, Answer]]],
) -> dict[str, Any]:
    """Summarise the answers of all parts and write them."""
    cases = _cases(data, [part for part, _ in done if part.seed == 0], config.evaluate)
    answers = {name: _answers(cases, done, name) for name in done[0][1]}
    interacting = interaction_matrix(data.interactions, cases.classes)
    spent = costs(done)
    result = {
        "protocol": _protocol(data, cases, config.evaluate),
        **summarise(cases, answers, interacting, config.evaluate),
        "thresholds": {name: [found[name].threshold for _, found in done] for name in answers},
        "costs": spent,
    }
    described = details(cases, answers, data.titles, config.evaluate)
    with run.product(EVALUATION, key, config, {"models": sorted(answers)}) as directory:
        storage.write_json(storage.join(directory, METRICS_FILE), result)
        storage.write_json(storage.join(directory, DETAILS_FILE), described)
        storage.write_parquet(storage.join(directory, SAMPLES_FILE), _sample_metrics(cases, answers))
        page = evaluation_page(result, described, training_curves([part for part, _ in done]), spent)
        storage.write_bytes(storage.join(directory, PAGE_FILE), page.encode())
    return result


def _protocol(data: PreparedData, cases: Cases, settings: EvaluateConfig) -> dict[str, Any]:
    """What the figures are of, so that nobody need guess."""
    folds = {"folds": settings.folds, "fold_seed": settings.fold_seed}
    return {
        "name": settings.protocol,
        **(folds if settings.protocol == "cross-validation" else {}),
        "seeds": list(range(settings.num_seeds)),
        "samples": data.manifest["data_config"]["sample_visits"],
        "label_window": data.manifest["label_window"],
        "threshold_metric": settings.threshold_metric,
        "bootstrap_replicates": settings.bootstrap_replicates,
        "num_samples": len(cases.sample_ids),
        "num_patients": len(np.unique(cases.subjects)),
        "num_classes": len(cases.classes),
        "interaction_source": sorted(set(between_classes(data.interactions)["source"].to_pylist())),
        "data": data.fingerprint,
    }


# --- what is judged --------------------------------------------------------------------------------------------------


def _cases(data: PreparedData, of_one_seed: Sequence[Part], settings: EvaluateConfig) -> Cases:
    """The test samples of all folds, with every label that their visits have."""
    columns = ["sample_id", "hadm_id", "diagnoses", *GROUP_COLUMNS]
    tables = [part.data.samples("test", columns) for part in of_one_seed]
    samples = pa.concat_tables(tables)
    codes = _visit_labels(data, samples["hadm_id"])
    known = {code for part in of_one_seed for code in part.data.vocabulary.medications}
    classes = tuple(sorted(known.union(*codes)))
    column = {code: index for index, code in enumerate(classes)}
    labels = np.zeros((len(samples), len(classes)), dtype=bool)
    for row, of_visit in enumerate(codes):
        labels[row, [column[code] for code in of_visit]] = True
    unseen = [unseen_diagnoses(t["diagnoses"], p.data.vocabulary) for t, p in zip(tables, of_one_seed, strict=True)]
    return Cases(
        samples["sample_id"].to_pylist(),
        samples["subject_id"].to_numpy(),
        classes,
        labels,
        make_groups(samples, np.concatenate(unseen), settings.min_group_patients),
        rarest_third(_training_visits(of_one_seed, column)),
    )


def _visit_labels(data: PreparedData, stays: pa.ChunkedArray) -> list[list[str]]:
    """The labels of some stays, of classes that training never saw too, which a data set's samples leave out."""
    visits = pa.concat_tables([storage.read_parquet(part, ["hadm_id", "labels"]) for part in data.visit_parts()])
    return visits["labels"].take(pc.index_in(stays, visits["hadm_id"].combine_chunks())).to_pylist()


def _training_visits(of_one_seed: Sequence[Part], column: Mapping[str, int]) -> np.ndarray:
    """How many training samples have each class, over all folds [classes]."""
    counts = np.zeros(len(column), dtype=np.int64)
    for part in of_one_seed:
        values = pc.value_counts(pc.list_flatten(part.data.samples("train", ["labels"])["labels"])).to_pylist()
        for value in values:
            counts[column[value["values"]]] += value["counts"]
    return counts


def _answers(cases: Cases, done: Sequence[tuple[Part, Mapping[str, Answer]]], model: str) -> list[Answers]:
    """One model's answers to the cases, for each seed."""
    by_seed: dict[int, list[tuple[Part, Answer]]] = {}
    for part, found in done:
        if model not in found:
            raise UserError(f"{part.run.uri} has no {model}, which other parts have; train it, or leave it out.")
        by_seed.setdefault(part.seed, []).append((part, found[model]))
    answers = []
    for of_seed in by_seed.values():
        assert [sample for _, found in of_seed for sample in found.sample_ids] == cases.sample_ids
        scores = [in_columns(found.scores, p.data.vocabulary.medications, cases.classes) for p, found in of_seed]
        chosen = [table >= found.threshold for table, (_, found) in zip(scores, of_seed, strict=True)]
        answers.append(Answers(np.concatenate(scores), np.concatenate(chosen)))
    return answers


def _sample_metrics(cases: Cases, answers: Mapping[str, Sequence[Answers]]) -> pa.Table:
    """Each sample's metrics for each model, averaged over seeds."""
    rows: dict[str, Any] = {"sample_id": [], "subject_id": [], "model": [], "prauc": [], "jaccard": [], "f1": []}
    for name, of_seeds in answers.items():
        rows["sample_id"] += cases.sample_ids
        rows["subject_id"] += cases.subjects.tolist()
        rows["model"] += [name] * len(cases.sample_ids)
        rows["prauc"] += _mean(metrics.average_precision(cases.labels, each.scores) for each in of_seeds)
        rows["jaccard"] += _mean(metrics.jaccard(cases.labels, each.chosen) for each in of_seeds)
        rows["f1"] += _mean(metrics.f1(cases.labels, each.chosen) for each in of_seeds)
    return pa.table(rows)


def _mean(of_seeds: Any) -> list[float]:
    return np.mean(list(of_seeds), axis=0).tolist()

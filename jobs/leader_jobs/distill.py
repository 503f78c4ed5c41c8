"""Stages `distill` and `student`: train the student, with the teacher's features or without a teacher.

    samples + features, row for row --Ray Data--> each worker's shard in memory --epochs, early stopping--> student/

A shard is read into memory once: encoded records are small, and epochs over memory cost nothing to start, where a Ray
Data pass costs about a second. `student/` holds weights, configuration, vocabulary, titles and interactions.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from leader_jobs.pipeline import reads_titles
from leader_jobs.student_fit import FEATURE_COLUMNS, Examples, StudentTraining
from leader_jobs.tokens import SAMPLE_COLUMNS
from leader_jobs.training import (
    DATASET_FILES,
    class_frequency,
    copy_dataset_files,
    data_facts,
    num_parameters,
    run_trainer,
    tell,
    training_facts,
    worker_progress,
)
from leader_platform import storage
from leader_platform.artifacts import FEATURES, STUDENT, STUDENT_ALONE, TITLES, Run
from leader_platform.config import LeaderConfig, StudentConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.errors import UserError
from leader_platform.models.code_book import CodeBook
from leader_platform.models.title_states import load_readings
from leader_platform.predict import CODE_BOOK_FILE, CONFIG_FILE, WEIGHTS_FILE
from leader_platform.progress import Progress, Task


def train_student(
    data: PreparedData,
    run: Run,
    config: LeaderConfig,
    key: str,
    resume: bool,
    progress: Progress,
    with_teacher: bool = True,
) -> None:
    """Train on the training split, stop early on the validation split, write `student/` or `student_alone/`."""
    stage = STUDENT if with_teacher else STUDENT_ALONE
    config = config.model_copy(update={"student": student_config(config.student, with_teacher)})
    progress.log(f"Training the student {'with the teacher' if with_teacher else 'without a teacher'}")
    features = run.path(FEATURES) if with_teacher else None
    with progress.task("Reading samples and features"):
        book = code_book(data, run, config.student)
        datasets = {"train": _rows(data, "train", features), "validation": _rows(data, "validation", None)}
    arguments = {"data": data.uri, "config": config.model_dump(mode="json"), "book": book}
    checkpoint, history = run_trainer(
        _worker, arguments, datasets, run.scratch(stage, key), config, config.student.num_workers, resume, progress
    )
    about: dict[str, Any] = {"with_teacher": with_teacher, **training_facts(history), **data_facts(data)}
    made_from = (FEATURES, *((TITLES,) if reads_titles(config.student) else ())) if with_teacher else ()
    with run.product(stage, key, config, about, made_from) as directory, checkpoint.as_directory() as folder:
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            storage.write_bytes(storage.join(directory, name), Path(folder, f"best-{name}").read_bytes())
        about["parameters"] = num_parameters(Path(folder, f"best-{WEIGHTS_FILE}"))
        if book is not None:
            storage.write_parquet(storage.join(directory, CODE_BOOK_FILE), book.to_table())
        copy_dataset_files(data, directory, DATASET_FILES)
    storage.remove(run.scratch(stage, key))


def student_config(config: StudentConfig, with_teacher: bool) -> StudentConfig:
    """The settings that a student is trained with. Without a teacher there is nothing of the language model in it:
    neither features nor probabilities nor titles."""
    return config if with_teacher else config.model_copy(update={"title_states": False, "soft_label_weight": 0.0})


def code_book(data: PreparedData, run: Run, config: StudentConfig) -> CodeBook | None:
    """What the wide layer knows of codes; None for a student without one."""
    if not config.wide:
        return None
    readings = load_readings(run.path(TITLES)) if reads_titles(config) else None
    return CodeBook.of(data.vocabulary, readings, config.title_size)


def _rows(data: PreparedData, split: str, features: str | None) -> Any:
    """A split's samples as a Ray data set, each with its `FEATURE_COLUMNS` where features are given."""
    import ray

    def read(batch: Any) -> pa.Table:
        part = str(batch["part"][0])
        samples = storage.read_parquet(part, SAMPLE_COLUMNS)
        if features is None:
            return samples
        file = storage.join(features, split, part.rsplit("/", 1)[-1])
        told = storage.read_parquet(file, ["sample_id", *FEATURE_COLUMNS])
        assert told["sample_id"].equals(samples["sample_id"]), f"features are not aligned with {part}"
        for name in FEATURE_COLUMNS:
            samples = samples.append_column(name, told[name])
        return samples

    parts = [{"part": part} for part in data.sample_parts(split)]
    if not parts:
        raise UserError(f"{data.uri} has no {split} samples; prepare it from more patients.")
    rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(read, batch_size=1)
    # Read before the workers start: on a small machine they hold every core, and a read that waits for one would wait
    # for ever.
    return rows.materialize()


# --- in the Ray Train worker -----------------------------------------------------------------------------------------


def _worker(arguments: dict[str, Any]) -> None:
    """The training loop of one worker, top to bottom."""
    from ray import train

    config = LeaderConfig.model_validate(arguments["config"])
    data = PreparedData(arguments["data"])
    rank = train.get_context().get_world_rank()
    training = StudentTraining(
        config.student,
        config.evaluate,
        data.vocabulary,
        _shard("train", data, arguments["book"]),
        _shard("validation", data, arguments["book"]),
        class_frequency(data),
        arguments["book"],
        device=train.torch.get_device(),
        rank=rank,
        wrap=train.torch.prepare_model,
    )
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.restore(Path(folder))
    with worker_progress(arguments).task("Student", config.student.max_epochs, "epochs", training.epoch) as task:
        _train(training, task, arguments, rank)


def _train(training: StudentTraining, task: Task, arguments: dict[str, Any], rank: int) -> None:
    from ray import train

    while not training.ended:
        began = time.monotonic()
        told = training.run_epoch()
        task.update(training.epoch, best_prauc=training.best_prauc)
        tell(arguments, {**told, "samples_per_second": len(training.train) / (time.monotonic() - began)})
        if training.epoch % training.config.checkpoint_epochs == 0 or training.ended:
            with tempfile.TemporaryDirectory() as folder:
                training.save(Path(folder))
                # Of several workers the first one's is kept.
                train.report(told, checkpoint=train.Checkpoint.from_directory(folder) if rank == 0 else None)


def _shard(split: str, data: PreparedData, book: CodeBook | None) -> Examples:
    """This worker's share of a split, in memory."""
    from ray import train

    shard = train.get_dataset_shard(split)
    assert shard is not None
    return Examples.encode(shard.iter_batches(batch_size=1024, batch_format="pyarrow"), data.vocabulary, book)

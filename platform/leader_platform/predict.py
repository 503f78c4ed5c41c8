"""Student and teacher as predictors: what serving and evaluation load from a run, and ask for probabilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import yaml

from leader_platform import storage
from leader_platform.artifacts import FEATURES, STUDENT, TEACHER, Run
from leader_platform.config import Dtype, LeaderConfig, PromptConfig, StudentConfig
from leader_platform.data.prompts import fit_prompt
from leader_platform.data.records import PatientRecord
from leader_platform.data.vocabulary import Vocabulary
from leader_platform.errors import UserError
from leader_platform.features import probabilities

if TYPE_CHECKING:
    from leader_platform.models.code_book import CodeBook
    from leader_platform.models.student import Student

logger = logging.getLogger(__name__)
CONFIG_FILE, WEIGHTS_FILE, CODE_BOOK_FILE = "config.json", "model.safetensors", "code_book.parquet"


@dataclass(frozen=True)
class Knowledge:
    """What every predictor knows beside its weights; its files lie in each product directory."""

    vocabulary: Vocabulary
    titles: dict[str, str]

    @classmethod
    def read(cls, directory: str) -> Knowledge:
        vocabulary = Vocabulary.model_validate(storage.read_json(storage.join(directory, "vocabulary.json")))
        table = storage.read_parquet(storage.join(directory, "titles.parquet"))
        return cls(vocabulary, dict(zip(table["code"].to_pylist(), table["title"].to_pylist(), strict=True)))


class Engine(Protocol):
    """What runs the language model: `VllmEngine` or `TransformersEngine`."""

    async def encode(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray: ...

    def shut_down(self) -> None: ...


class Predictor:
    """What student and teacher have in common. Probabilities are [records, medications], in `medications` order."""

    def __init__(self, knowledge: Knowledge, threshold: float, version: str, max_history_visits: int) -> None:
        self.max_history_visits = max_history_visits
        self.vocabulary = knowledge.vocabulary
        self.titles = knowledge.titles
        self.medications = knowledge.vocabulary.medications
        self.medication_names = {code: name for code, name in knowledge.titles.items() if code.startswith("ATC:")}
        self.threshold = threshold
        self.version = version

    def as_trained(self, record: PatientRecord) -> PatientRecord:
        """The record with no more history than training showed: its most recent visits."""
        return replace(record, history=record.history[max(0, len(record.history) - self.max_history_visits) :])

    def unknown_codes(self, record: PatientRecord) -> list[str]:
        """The record's codes that training never saw."""
        return self.vocabulary.unknown_codes(record)


class StudentPredictor(Predictor):
    """The distilled model; milliseconds a record on one core."""

    def __init__(
        self, model: Student, knowledge: Knowledge, book: CodeBook | None, temperature: float, **about: Any
    ) -> None:
        super().__init__(knowledge, **about)
        self.model, self.book, self.temperature = model.eval(), book, temperature

    @classmethod
    def load(cls, run: str, stage: str = STUDENT) -> StudentPredictor:
        """From a run's `student/` (or another product that holds a student). `UserError` when it cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        from leader_platform.models.student import Student

        opened = Run(run)
        opened.verify(stage)
        manifest, directory = opened.manifest(stage), opened.path(stage)
        try:
            knowledge = Knowledge.read(directory)
            about = storage.read_json(storage.join(directory, CONFIG_FILE))
            config = StudentConfig.model_validate(about["student"])
            book = _code_book(directory, knowledge.vocabulary) if config.wide else None
            model = Student(config, knowledge.vocabulary, book=book)
            model.load_state_dict(load(storage.read_bytes(storage.join(directory, WEIGHTS_FILE))))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{directory} is not a readable student ({_one_line(error)}); train it again.") from error
        return cls(
            model,
            knowledge,
            book,
            temperature=float(about["temperature"]),
            threshold=float(about["threshold"]),
            version=f"student-{manifest['key']}",
            max_history_visits=manifest["max_history_visits"],
        )

    def predict(self, records: Sequence[PatientRecord]) -> np.ndarray:
        """Probabilities float32 [records, medications]."""
        import torch

        from leader_platform.models.code_book import encode
        from leader_platform.models.student import collate

        if not records:
            return np.zeros((0, len(self.medications)), np.float32)
        encoded = encode([self.as_trained(record) for record in records], self.vocabulary, self.book)
        batch = collate(encoded, np.arange(len(encoded)))
        with torch.inference_mode():
            return probabilities(self.model(batch).logits.numpy() / self.temperature)


class TeacherPredictor(Predictor):
    """The tuned language model behind an engine; seconds a record on a CPU."""

    def __init__(
        self, directory: str, folder: str, engine: Engine, knowledge: Knowledge, prompt: PromptConfig, **about: Any
    ) -> None:
        from leader_platform.models.backbone import load_tokenizer
        from leader_platform.models.teacher import load_head

        super().__init__(knowledge, **about)
        self.engine, self.prompt = engine, prompt
        self.tokenizer, self.head = load_tokenizer(folder), load_head(directory)

    @classmethod
    def load(cls, run: str, engine: str = "vllm", dtype: Dtype = "auto", gpus: float | None = None) -> TeacherPredictor:
        """From a run's `teacher/`; the prompt is built as it was in training. `dtype` is the precision of the answers,
        `auto` by this process's device. `UserError` when it cannot be read.

        `gpus` is how many this process was given, or which share of one; None: one where there is any.
        The threshold is the one that `features` tuned on validation samples, 0.5 when that stage has not run.
        """
        from leader_platform.models.teacher import MERGED

        opened = Run(run)
        opened.verify(TEACHER)
        manifest, directory = opened.manifest(TEACHER), opened.path(TEACHER)
        try:
            told = yaml.safe_load(storage.read_bytes(storage.join(directory, "configuration.yaml")))
            config = LeaderConfig.model_validate(told)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{directory} is not a readable teacher ({_one_line(error)}); train it again.") from error
        threshold = opened.manifest(FEATURES)["threshold"] if opened.has(FEATURES) else 0.5
        with storage.local_copy(storage.join(directory, MERGED)) as merged:
            return cls(
                directory,
                str(merged),
                _engine(engine, str(merged), config, dtype, gpus),
                Knowledge.read(directory),
                config.prompt,
                threshold=float(threshold),
                version=f"teacher-{manifest['key']}",
                max_history_visits=manifest["max_history_visits"],
            )

    async def predict(self, records: Sequence[PatientRecord]) -> tuple[np.ndarray, list[bool]]:
        """Probabilities float32 [records, medications], and whether each prompt had to be shortened."""
        records = [self.as_trained(record) for record in records]
        prompts = [fit_prompt(record, self.titles, self.prompt, self._tokens) for record in records]
        if not prompts:
            return np.zeros((0, len(self.medications)), np.float32), []
        states = await self.engine.encode([prompt.token_ids for prompt in prompts])
        logits = self.head.logits(states, [self.vocabulary.previous_labels(record) for record in records])
        return probabilities(logits), [prompt.truncated for prompt in prompts]

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def shut_down(self) -> None:
        """End the engine's own processes."""
        self.engine.shut_down()


def _engine(name: str, folder: str, config: LeaderConfig, requested: Dtype, gpus: float | None) -> Engine:
    """The engine on this process's device. What the process was given decides, not what the run was trained on: Ray
    hides the GPUs that it did not hand out."""
    from leader_platform.models.precision import choose, cost, require_for_vllm, this_device

    device = this_device()
    dtype = choose(requested, device, "inference")
    logger.info("The teacher answers in %s on %s.", dtype, device)
    if line := cost(dtype, device):
        logger.warning(line)
    if name == "transformers":
        from leader_platform.models.transformers_engine import TransformersEngine

        return TransformersEngine(folder, dtype, config.teacher.pooling)
    assert name == "vllm", name
    from leader_platform.models.vllm_engine import VllmEngine

    require_for_vllm(dtype, device)
    usable = (gpus or 1.0) if device.kind == "cuda" else 0.0
    return VllmEngine(folder, dtype, config.prompt.max_tokens, config.teacher.pooling, usable)


def _code_book(directory: str, vocabulary: Vocabulary) -> CodeBook:
    from leader_platform.models.code_book import CodeBook

    return CodeBook.from_table(vocabulary, storage.read_parquet(storage.join(directory, CODE_BOOK_FILE)))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

"""Ridge regression on what the untuned language model makes of the prompt: how much it knows before it is taught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from leader_platform.baselines.base import Examples, clip, mean_prauc
from leader_platform.config import Dtype, PromptConfig, TeacherConfig
from leader_platform.data.prompts import fit_prompt
from leader_platform.data.records import PatientRecord
from leader_platform.models.memory import explain_out_of_memory
from leader_platform.predict import Knowledge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leader_platform.models.transformers_engine import TransformersEngine

# Times the number of columns; on the MIMIC-IV demo 3 is best, 1 loses 0.014 of PRAUC and 10 loses 0.003.
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_MEMORY_ADVICE = "lower prompt.max_tokens, use a smaller backbone, or leave it out of evaluate.models"


class HiddenStateRidge:
    """Labels as a linear function of the prompt's state, clipped to probabilities.

    Prompt, backbone, depth and pooling are the teacher's. The penalty is the one of `PENALTIES` with the best
    validation PRAUC. Clipping is better calibrated than Platt's scaling fitted on the validation split, at least where
    that is small (docs/EVALUATION.md).
    """

    def __init__(self, knowledge: Knowledge, prompt: PromptConfig, teacher: TeacherConfig, dtype: Dtype) -> None:
        self.titles = knowledge.titles
        self.prompt, self.teacher, self.dtype = prompt, teacher, dtype

    def fit(self, train: Examples, validation: Examples) -> Self:
        states, best = self._states(validation.records), -1.0
        for model in ridge(self._states(train.records), train.labels, PENALTIES):
            prauc = mean_prauc(validation.labels, model.predict(states))
            if prauc > best:
                self.model, best = model, prauc
        return self

    def predict_proba(self, records: Sequence[PatientRecord]) -> np.ndarray:
        return clip(self.model.predict(self._states(records)))

    def _states(self, records: Sequence[PatientRecord]) -> np.ndarray:
        """float32 [records, hidden]"""
        prompts = [fit_prompt(record, self.titles, self.prompt, self._tokens) for record in records]
        with explain_out_of_memory("Reading prompts for hidden_state_ridge", _MEMORY_ADVICE):
            return self._engine.states([prompt.token_ids for prompt in prompts])

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text).input_ids

    @cached_property
    def _engine(self) -> TransformersEngine:
        from leader_platform.models.transformers_engine import TransformersEngine

        return TransformersEngine(self.teacher.backbone, self.dtype, self.teacher.pooling, self.teacher.depth)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from leader_platform.models.backbone import load_tokenizer

        return load_tokenizer(self.teacher.backbone)


class Linear(NamedTuple):
    """A linear function of states [samples, hidden]."""

    weights: np.ndarray  # [hidden, medications]
    intercept: np.ndarray  # [medications]

    def predict(self, states: np.ndarray) -> np.ndarray:
        return states @ self.weights + self.intercept


def ridge(states: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> Iterator[Linear]:
    """For each penalty the least squares fit of labels [samples, medications] on standardised states [samples, hidden],
    its weights held by penalty x hidden. All of them from one eigenvalue decomposition."""
    centre, scale, means = states.mean(axis=0, dtype=float), states.std(axis=0, dtype=float) + 1e-6, labels.mean(axis=0)
    standardised = (states - centre) / scale
    eigenvalues, axes = np.linalg.eigh(standardised.T @ standardised)
    along_axes = axes.T @ (standardised.T @ (labels - means))
    for penalty in penalties:
        held = eigenvalues.clip(min=0) + penalty * len(eigenvalues)
        weights = (axes @ (along_axes / held[:, None])) / scale[:, None]
        yield Linear(weights, means - centre @ weights)

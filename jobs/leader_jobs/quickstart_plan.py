"""How much of the main job fits into some minutes on the machine at hand: what `leader quickstart` plans by.

A plan is the largest of `SIZES` whose expected minutes, at the speed that was measured, fit the budget. Expected
minutes are tokens over tokens per second, and fixed costs (processes that start, engines that load) that were measured
on one machine and scale with the time that libraries take to import on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from leader_jobs.speed import Speed
from leader_platform.config import LeaderConfig

# The steps, by the names of the tasks that they are; those of training are the pipeline's.
DATA, EVALUATE, SERVE = "Data set", "Evaluating", "Serving"
AROUND = "Measuring, Ray and jobs"  # no task: what is left of the whole
_TRAINED = tuple(f"Stage {name}" for name in ("teacher", "features", "titles", "distill", "student"))
STEPS = (DATA, *_TRAINED, EVALUATE, SERVE, AROUND)

# Part of the budget that a plan fills: other programs and a machine that slows down need the rest.
_FILLED = 0.85
# Of the synthetic cohort (measured): samples of a patient, tokens of a prompt by `prompt.max_tokens`, of all titles.
_SAMPLES_PER_PATIENT = 2.3
_PROMPT_TOKENS = ((192, 256, 320, 384, 448, 640, 1024, 2048), (141, 157, 166, 180, 218, 290, 380, 440))
_TITLE_TOKENS = 7000.0
# The fixed seconds below are of a machine that imports the libraries in this time.
_REFERENCE_START_S = 2.0


@dataclass(frozen=True)
class Size:
    """How large a quickstart is."""

    patients: int
    max_tokens: int
    depth: float
    steps: int

    def settings(self) -> dict[str, Any]:
        """The settings that it chooses, as changes to a configuration."""
        return {
            "prompt": {"max_tokens": self.max_tokens},
            "teacher": {
                "depth": self.depth,
                "max_steps": self.steps,
                "evaluate_steps": max(4, self.steps // 4),
                "max_epochs": 100,  # the steps end it, however few the samples
            },
        }


# Smallest first. The depth is a third (docs/LOG.md: as good as the whole by validation patients), and on the slowest
# machines a sixth, whose quality was not measured: there every part is to be seen at work in the time there is.
SIZES = (
    Size(60, 192, 1 / 6, 4),
    Size(80, 256, 1 / 6, 8),
    Size(100, 256, 1 / 3, 8),
    Size(140, 256, 1 / 3, 12),
    Size(180, 320, 1 / 3, 16),
    Size(220, 384, 1 / 3, 20),
    Size(240, 448, 1 / 3, 24),
    Size(240, 448, 1 / 3, 36),
    Size(240, 448, 1 / 3, 50),
    Size(360, 448, 1 / 3, 50),
    Size(480, 448, 1 / 3, 64),
    Size(720, 640, 1 / 3, 80),
    Size(1000, 640, 1 / 3, 120),
    Size(1500, 640, 1 / 3, 200),
    Size(2500, 1024, 1 / 3, 300),
)
# Without a budget of the user's: what shows every part at work, in no more time than it needs.
DEFAULT_MINUTES = 10.0
_ENOUGH_PATIENTS = 220


@dataclass(frozen=True)
class Step:
    """A part of the quickstart and the seconds that it is expected to take."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A size and what it is expected to take."""

    size: Size
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def by_step(self) -> dict[str, float]:
        return {step.name: round(step.seconds, 1) for step in self.steps}


def plan(
    minutes: float | None,
    speed: Speed,
    configured: Callable[[dict[str, Any]], LeaderConfig],
    patients: int | None = None,
) -> Plan:
    """The largest size that fits `minutes`, else the smallest there is; without a budget no larger than is enough to
    show every part at work. `configured` gives the whole configuration with
    a size's settings in it, in which a user's own settings stand; `patients` overrides the cohort's size."""
    plans = [Plan(size, expected(patients or size.patients, configured(size.settings()), speed)) for size in SIZES]
    if minutes is None:
        minutes, plans = DEFAULT_MINUTES, [each for each in plans if each.size.patients <= _ENOUGH_PATIENTS]
    fitting = [each for each in plans if each.seconds <= 60 * minutes * _FILLED]
    return fitting[-1] if fitting else plans[0]


def expected(patients: int, config: LeaderConfig, speed: Speed) -> tuple[Step, ...]:
    """The steps of the quickstart with their expected seconds, in order."""
    slower = max(1.0, speed.start_s / _REFERENCE_START_S)
    teacher, data = config.teacher, config.data
    # A shallower model is faster by as much; embedding and attention to more tokens are small beside it.
    read, train = (rate * speed.depth / teacher.depth for rate in (speed.read_tokens_per_s, speed.train_tokens_per_s))
    prompt = float(np.interp(config.prompt.max_tokens, *_PROMPT_TOKENS))
    samples = _SAMPLES_PER_PATIENT * patients
    validation = min(teacher.validation_samples, data.validation_fraction * samples)
    training = min(teacher.head_warm_start_samples, (1 - data.validation_fraction - data.test_fraction) * samples)
    per_step = teacher.batch_size * teacher.gradient_accumulation * teacher.num_workers
    num_steps = teacher.max_steps or teacher.max_epochs * training / per_step
    validations = 1 + (num_steps / teacher.evaluate_steps if teacher.evaluate_steps else 0)
    titles = _TITLE_TOKENS / (speed.read_tokens_per_s * speed.depth / config.student.title_depth)
    tuning = num_steps * per_step * prompt / train + validations * validation * prompt / read
    seconds = (
        slower * 18 + 0.01 * patients,
        slower * 45 + (training + validation) * prompt / read + tuning,
        slower * 35 + samples * prompt / read,
        slower * 10 + titles,
        slower * 20 + 0.03 * samples,
        slower * 16 + 0.03 * samples,
        slower * 12 + 0.01 * samples,
        slower * 40,
        slower * 65,
    )
    return tuple(Step(name, each) for name, each in zip(STEPS, seconds, strict=True))

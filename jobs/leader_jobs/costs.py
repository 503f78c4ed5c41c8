"""What models cost, and how their training went, from what the stages wrote about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from leader_jobs.answers import TRAINED, Answer
from leader_jobs.protocol import Part
from leader_platform.artifacts import TEACHER

RATES = ("tokens_per_second", "samples_per_second")  # what training tells of its speed on the way
_TRAINED_BY = {"teacher": TEACHER}  # where a model's training is told, if not in the product that it is read from


def costs(done: Sequence[tuple[Part, Mapping[str, Answer]]]) -> dict[str, dict[str, float]]:
    """Each model's means over parts: `seconds_per_sample`, and of trained ones what training took (`seconds`,
    `peak_memory_gb`), how fast it was (`RATES`) and the `parameters`, as far as they are known."""
    found: dict[str, dict[str, float]] = {}
    for name in done[0][1]:
        of_parts = [
            _known({"seconds_per_sample": answers[name].seconds_per_sample, **_training(part, name)})
            for part, answers in done
        ]
        names = set.intersection(*(set(each) for each in of_parts))
        found[name] = {key: float(np.mean([each[key] for each in of_parts])) for key in sorted(names)}
    return found


def _training(part: Part, model: str) -> dict[str, float | None]:
    if model not in TRAINED:
        return {}
    manifest = part.run.manifest(_product(model))
    told = manifest.get("training", [])
    rates = {name: [line[name] for line in told if name in line] for name in RATES}
    return {name: manifest.get(name) for name in ("seconds", "parameters", "peak_memory_gb")} | {
        name: float(np.mean(values)) for name, values in rates.items() if values
    }


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _product(model: str) -> str:
    return _TRAINED_BY.get(model, TRAINED[model].product)


def training_curves(parts: Iterable[Part]) -> dict[str, list[dict[str, Any]]]:
    """What each trained model told on the way, by the part's name and the model's."""
    curves = {}
    for part in parts:
        for model in TRAINED:
            if part.run.has(_product(model)):
                curves[f"{part.name}/{model}"] = part.run.manifest(_product(model)).get("training", [])
    return curves

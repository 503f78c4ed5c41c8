"""Cross-validation by patient: which patients test, validate and train in each fold. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from leader_platform.errors import UserError


def fold_split(
    subjects: Iterable[int], fold: int, num_folds: int, validation_fraction: float, seed: int
) -> dict[int, str]:
    """Subject -> "train", "validation" or "test" in fold number `fold` (0 to `num_folds` - 1).

    Every patient tests in exactly one fold, and fold sizes differ by one at most. `validation_fraction` is of all
    patients, drawn anew in each fold from those that do not test. A patient's place depends on the seed and the set of
    patients alone. `UserError` for fewer than two folds, and where a fold would lack a patient in one of its splits.
    """
    if num_folds < 2:
        raise UserError(f"--folds {num_folds} leaves nothing to train on; give 2 or more.")
    ranked = sorted(subjects, key=lambda subject: _rank(seed, "test", subject))
    num_validation = max(1, round(len(ranked) * validation_fraction))
    if len(ranked) < num_folds or len(ranked) - -(-len(ranked) // num_folds) <= num_validation:
        raise UserError(
            f"{len(ranked)} patients cannot fill {num_folds} folds with {num_validation} of them for validation; "
            "give fewer --folds or more patients."
        )
    test = set(ranked[fold::num_folds])
    rest = sorted(set(ranked) - test, key=lambda subject: _rank(seed, f"validation {fold}", subject))
    validation = set(rest[:num_validation])
    return {s: "test" if s in test else "validation" if s in validation else "train" for s in ranked}


def _rank(seed: int, purpose: str, subject: int) -> bytes:
    return hashlib.sha256(f"{seed}:{purpose}:{subject}".encode()).digest()

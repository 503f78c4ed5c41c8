"""Folds by patient: everybody tests once, nobody is in two splits, and the same seed gives the same folds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data.folds import fold_split
from leader_platform.errors import UserError


@given(
    subjects=st.sets(st.integers(1, 10**8), min_size=12, max_size=60),
    num_folds=st.integers(2, 5),
    seed=st.integers(0, 3),
)
def test_every_patient_tests_in_exactly_one_fold(subjects: set[int], num_folds: int, seed: int) -> None:
    folds = [fold_split(subjects, fold, num_folds, 0.1, seed) for fold in range(num_folds)]
    assert all(split.keys() == subjects for split in folds)
    tested = Counter(subject for split in folds for subject, name in split.items() if name == "test")
    assert set(tested.values()) == {1}
    assert tested.keys() == subjects
    sizes = [list(split.values()).count("test") for split in folds]
    assert max(sizes) - min(sizes) <= 1


def test_validation_is_a_share_of_all_patients_and_drawn_anew_in_each_fold() -> None:
    folds = [fold_split(range(100), fold, 5, 0.1, 0) for fold in range(5)]
    assert [Counter(split.values()) for split in folds] == [{"test": 20, "validation": 10, "train": 70}] * 5
    validations = [{subject for subject, name in split.items() if name == "validation"} for split in folds]
    assert len(set.union(*validations)) > 25


def test_folds_depend_on_seed_and_patients_alone() -> None:
    assert fold_split([3, 1, 2, 9, 8, 7], 0, 2, 0.1, 0) == fold_split([9, 8, 7, 3, 2, 1], 0, 2, 0.1, 0)
    assert fold_split(range(50), 0, 5, 0.1, 0) != fold_split(range(50), 0, 5, 0.1, 1)


@pytest.mark.parametrize(
    ("num_patients", "num_folds", "told"), [(100, 1, "--folds 1"), (3, 5, "3 patients"), (2, 2, "2 patients")]
)
def test_folds_that_cannot_be_filled_are_refused(num_patients: int, num_folds: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        fold_split(range(num_patients), 0, num_folds, 0.1, 0)

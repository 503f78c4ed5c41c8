"""The groups that results are told for, from rows of samples; classes that a model cannot name; rare classes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from leader_platform.data.vocabulary import SPECIAL, Vocabulary
from leader_platform.evaluation.cases import in_columns, make_groups, rarest_third, unseen_diagnoses

SAMPLES = pa.table(
    {
        "subject_id": [1, 1, 2, 3, 4],
        "prior_visits": [0, 1, 0, 0, 2],
        "gender": ["F", "F", "M", "F", None],
        "age": [58, 61, 65, 93, None],
        "race": ["WHITE", "WHITE - RUSSIAN", "BLACK/AFRICAN AMERICAN", "HISPANIC OR LATINO", "HISPANIC/LATINO - CUBAN"],
        "insurance": ["Medicare", "Medicare", "Medicaid", "", "Medicare"],
    }
)
GROUPS = {  # those that hold of each row, in words
    "all": "yyyyy",
    "first_visit": "y.yy.",
    "multi_visit": ".y..y",
    "unseen_diagnoses": "...y.",
    "gender=F": "yy.y.",
    "gender=M": "..y..",
    "age=50-59": "y....",
    "age=60-69": ".yy..",
    "age=90+": "...y.",
    "race=BLACK": "..y..",
    "race=HISPANIC": "...yy",
    "race=WHITE": "yy...",
    "insurance=MEDICAID": "..y..",
    "insurance=MEDICARE": "yy..y",
}


def drawn(groups: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: "".join("y" if row else "." for row in rows) for name, rows in groups.items()}


def test_groups_are_kinds_of_visits_and_values_of_the_profile() -> None:
    unseen = np.array([False, False, False, True, False])
    assert drawn(make_groups(SAMPLES, unseen, 1)) == GROUPS
    assert list(make_groups(SAMPLES, unseen, 1)) == list(GROUPS)


def test_samples_of_several_folds_make_groups_together() -> None:
    parts = pa.concat_tables([SAMPLES.slice(0, 2), SAMPLES.slice(2, 1), SAMPLES.slice(3)])
    assert drawn(make_groups(parts, np.array([False, False, False, True, False]), 1)) == GROUPS


def test_a_profile_value_of_few_patients_is_no_group_however_many_its_samples() -> None:
    groups = make_groups(SAMPLES, np.zeros(5, dtype=bool), 2)
    # race=WHITE has two samples of one patient; no sample has unseen diagnoses.
    assert set(groups) == {
        "all",
        "first_visit",
        "multi_visit",
        "gender=F",
        "age=60-69",
        "race=HISPANIC",
        "insurance=MEDICARE",
    }


def test_diagnoses_are_unseen_where_there_are_some_and_training_knew_none() -> None:
    codes = {name: index for index, name in enumerate((*SPECIAL, "ICD10CM:I10"))}
    vocabulary = Vocabulary(codes={"diagnoses": codes}, profile={})
    diagnoses = [["ICD10CM:I10"], ["ICD10CM:Z99"], ["ICD10CM:Z99", "ICD10CM:I10"], [], ["ICD10CM:A00", "ICD10CM:B00"]]
    column = pa.chunked_array([diagnoses[:2], diagnoses[2:]], pa.list_(pa.string()))
    assert unseen_diagnoses(column, vocabulary).tolist() == [False, True, False, False, True]


def test_classes_that_a_model_cannot_name_have_no_probability() -> None:
    scores = np.array([[0.9, 0.2]], dtype=np.float32)
    placed = in_columns(scores, ("ATC:C", "ATC:A"), ("ATC:A", "ATC:B", "ATC:C"))
    assert placed.dtype == np.float32
    assert placed.tolist() == [[np.float32(0.2), 0, np.float32(0.9)]]
    assert in_columns(scores >= 0.5, ("ATC:C", "ATC:A"), ("ATC:A", "ATC:B", "ATC:C")).tolist() == [[False, False, True]]


def test_the_rarest_third_of_the_classes_is_rounded_down_and_begins_with_those_never_trained_on() -> None:
    assert rarest_third(np.array([5, 0, 9, 1, 7, 1, 8])).nonzero()[0].tolist() == [1, 3]
    assert not rarest_third(np.array([4, 2])).any()

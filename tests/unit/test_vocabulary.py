"""Codes and profile values as indices: fitted on what it was given and nothing else."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from leader_platform.data.records import KINDS, PROFILE_FIELDS, PatientRecord, Visit
from leader_platform.data.vocabulary import (
    PADDING,
    SPECIAL,
    UNKNOWN,
    Vocabulary,
    count_values,
    fit_vocabulary,
    profile_value,
)

PROFILE = {"gender": "F", "age": 70, "insurance": "Medicare", "language": None, "marital_status": "WIDOWED", "race": ""}


def visits(*medications: list[str]) -> pa.Table:
    rows = [
        {"diagnoses": ["ICD10CM:I10", "ICD9CM:4019"], "procedures": [], "medications": codes, **PROFILE}
        for codes in medications
    ]
    return pa.Table.from_pylist(rows)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return fit_vocabulary(count_values(visits(["ATC:N02B", "ATC:B01A"], ["ATC:N02B", "ATC:C07A"])), 1)


def test_each_visit_counts_a_code_once() -> None:
    counts = count_values(visits(["ATC:N02B", "ATC:B01A"], ["ATC:N02B"]))
    assert counts["medications", "ATC:N02B"] == 2
    assert counts["profile", "age", "70-79"] == 2


def test_padding_and_unknown_come_first_in_every_table(vocabulary: Vocabulary) -> None:
    for table in (*vocabulary.codes.values(), *vocabulary.profile.values()):
        assert list(table)[:2] == list(SPECIAL)
        assert list(table.values()) == list(range(len(table)))


def test_codes_stand_in_alphabetical_order(vocabulary: Vocabulary) -> None:
    assert vocabulary.codes["medications"] == {
        "<padding>": PADDING,
        "<unknown>": UNKNOWN,
        "ATC:B01A": 2,
        "ATC:C07A": 3,
        "ATC:N02B": 4,
    }


def test_the_same_counts_in_another_order_give_the_same_indices(vocabulary: Vocabulary) -> None:
    counts = count_values(visits(["ATC:C07A", "ATC:N02B"], ["ATC:B01A", "ATC:N02B"]))
    reversed_counts = Counter(dict(reversed(list(counts.items()))))
    assert fit_vocabulary(reversed_counts, 1).model_dump_json() == vocabulary.model_dump_json()


def test_rare_codes_are_left_out_and_common_ones_kept() -> None:
    counts = count_values(visits(["ATC:N02B", "ATC:B01A"], ["ATC:N02B", "ATC:C07A"]))
    assert fit_vocabulary(counts, 2).medications == ("ATC:N02B",)


def test_an_unseen_code_is_unknown_and_keeps_its_place(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("diagnoses", ["ICD9CM:4019", "ICD10CM:4019"]) == [3, UNKNOWN]


def test_labels_count_from_zero_in_the_order_of_medications(vocabulary: Vocabulary) -> None:
    assert vocabulary.medications == ("ATC:B01A", "ATC:C07A", "ATC:N02B")
    assert vocabulary.labels(["ATC:N02B", "ATC:A10A", "ATC:B01A"]) == [0, 2]
    assert [vocabulary.medications[label] for label in vocabulary.labels(["ATC:C07A"])] == ["ATC:C07A"]


def test_unknown_codes_are_told_once_in_order(vocabulary: Vocabulary) -> None:
    record = PatientRecord(
        history=(Visit(("ICD10CM:X",), ("ICD10PCS:Y",), ("ATC:A10A", "ATC:N02B")),),
        current=Visit(("ICD10CM:I10", "ICD10CM:X"), ("ICD10PCS:Z",)),
    )
    assert vocabulary.unknown_codes(record) == ["ICD10CM:X", "ICD10PCS:Y", "ATC:A10A", "ICD10PCS:Z"]


def test_a_code_of_one_kind_is_unknown_in_another(vocabulary: Vocabulary) -> None:
    assert vocabulary.unknown_codes(PatientRecord(current=Visit(procedures=("ICD10CM:I10",)))) == ["ICD10CM:I10"]


@pytest.mark.parametrize(
    ("age", "band"), [(0, "0-9"), (9, "0-9"), (10, "10-19"), (89, "80-89"), (90, "90+"), (104, "90+"), (None, "")]
)
def test_ages_fall_into_bands(age: int | None, band: str) -> None:
    assert profile_value("age", age) == band


def test_profile_values_match_whatever_their_case(vocabulary: Vocabulary) -> None:
    spelt = vocabulary.encode_profile({"gender": " f ", "insurance": "MEDICARE", "age": 79})
    assert spelt == vocabulary.encode_profile({"gender": "F", "insurance": "Medicare", "age": 70})
    assert UNKNOWN not in spelt[:3]


def test_missing_and_unseen_profile_values_are_unknown(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode_profile({}) == [UNKNOWN] * len(PROFILE_FIELDS)
    assert vocabulary.encode_profile({"gender": "X"})[PROFILE_FIELDS.index("gender")] == UNKNOWN
    assert list(vocabulary.profile["language"]) == list(SPECIAL)  # only nulls were seen


def test_codes_of_validation_alone_are_unknown() -> None:
    train, validation = count_values(visits(["ATC:N02B"])), count_values(visits(["ATC:A10A"]))
    fitted = fit_vocabulary(train, 1)
    (code,) = {key[1] for key in validation if key[0] == "medications"}
    assert fitted.encode("medications", [code]) == [UNKNOWN]
    assert fitted.labels([code]) == []


def test_a_vocabulary_survives_json(vocabulary: Vocabulary) -> None:
    again = Vocabulary.model_validate_json(vocabulary.model_dump_json())
    assert again == vocabulary
    assert again.medications == vocabulary.medications
    assert set(again.codes) == set(KINDS)

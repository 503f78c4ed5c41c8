"""Properties of what is done to codes and rows, whatever the tables hold."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data.sources.events import EVENT_SCHEMAS, bare_codes, checked, meaningful, namespaced

# Another process on the machine can make one example slow; that is no failure.
SYSTEMS = [("diagnoses", 9), ("diagnoses", 10), ("procedures", 9), ("procedures", 10)]
anything = st.text(max_size=12)
code = st.from_regex(r"[0-9A-Z]{3,7}", fullmatch=True)
decorated = st.tuples(st.sampled_from(["", " ", "\t"]), st.integers(0, 7), st.booleans(), st.sampled_from(["", "  "]))
number = st.none() | st.integers(0, 3)


def bare(text: str | None) -> str | None:
    return bare_codes(pa.chunked_array([[text]], pa.string()))[0].as_py()


def with_system(kind: str, version: int, text: str) -> str:
    return namespaced(kind, pa.chunked_array([[version]]), pa.chunked_array([[text]]))[0].as_py()


@given(anything)
def test_a_bare_code_stays_as_it_is(text: str) -> None:
    once = bare(text)
    assert bare(once) == once


@given(anything)
def test_a_bare_code_has_no_dot_no_blank_around_it_and_is_not_empty(text: str) -> None:
    found = bare(text)
    assert found is None or (found and "." not in found and found == found.strip(" \t\n"))


@given(code, decorated)
def test_dots_blanks_and_case_make_no_other_code(text: str, how: tuple[str, int, bool, str]) -> None:
    before, dot, lower, after = how
    written = text[:dot] + "." + text[dot:]
    assert bare(before + (written.lower() if lower else written) + after) == text


@given(st.integers(1, 5), st.integers(0, 99_999))
def test_no_leading_zero_is_lost(num_zeros: int, rest: int) -> None:
    text = "0" * num_zeros + str(rest)
    assert bare(text) == text


@given(st.lists(code, min_size=2, max_size=6, unique=True))
def test_different_codes_stay_different(codes: list[str]) -> None:
    assert len({bare(text) for text in codes}) == len(codes)


@given(code, code, st.sampled_from(SYSTEMS), st.sampled_from(SYSTEMS))
def test_codes_are_equal_only_of_one_system_and_one_string(
    one: str, other: str, first: tuple[str, int], second: tuple[str, int]
) -> None:
    same = with_system(*first, one) == with_system(*second, other)
    assert same == (one == other and first == second)


@given(code, st.sampled_from(SYSTEMS))
def test_a_code_with_its_system_ends_with_the_code(text: str, system: tuple[str, int]) -> None:
    prefix, _, found = with_system(*system, text).partition(":")
    assert found == text
    assert prefix in ("ICD9CM", "ICD10CM", "ICD9PCS", "ICD10PCS")


@given(anything)
def test_a_meaningful_text_stays_as_it_is_and_says_something(text: str) -> None:
    found = meaningful(pa.chunked_array([[text]]))[0].as_py()
    assert found == meaningful(pa.chunked_array([[found]], pa.string()))[0].as_py()
    assert found is None or found not in ("", "?")


@given(st.lists(st.tuples(number, number, st.none() | anything, st.sampled_from([None, 8, 9, 10])), max_size=20))
def test_every_diagnosis_is_an_event_or_counted_once(raw: list[tuple]) -> None:
    subject, admission, codes, versions = zip(*raw, strict=True) if raw else ((), (), (), ())
    batch = pa.table(
        {
            "subject_id": pa.array(subject, pa.int64()),
            "hadm_id": pa.array(admission, pa.int64()),
            "position": pa.nulls(len(raw), pa.int64()),
            "code": pa.array(codes, pa.string()),
            "icd_version": pa.array(versions, pa.int64()),
        }
    )
    check_accounts("diagnoses", batch)


@given(st.lists(st.tuples(number, number, st.none() | st.sampled_from(["MAIN", "main ", "BASE", "ADDITIVE", "x"]))))
def test_every_prescription_is_an_event_or_counted_once(raw: list[tuple]) -> None:
    subject, admission, drug_type = zip(*raw, strict=True) if raw else ((), (), ())
    names = pa.array(["Aspirin"] * len(raw), pa.string()).dictionary_encode()
    batch = pa.table(
        {
            "subject_id": pa.array(subject, pa.int64()),
            "hadm_id": pa.array(admission, pa.int64()),
            "started_at": pa.nulls(len(raw), pa.timestamp("ms")),
            "drug_type": pa.array(drug_type, pa.string()).dictionary_encode(),
            **dict.fromkeys(("drug", "ndc", "gsn"), names),
        }
    )
    check_accounts("medications", batch)


def check_accounts(kind: str, batch: pa.Table) -> None:
    events, tally = checked(kind, "a_table", batch)
    assert events.schema == EVENT_SCHEMAS[kind]
    assert len(events) + sum(tally.values()) == len(batch)
    assert all(tally.values())
    assert isinstance(tally, Counter)
    for name in ("subject_id", "hadm_id", "code"):
        assert name not in events.column_names or events[name].null_count == 0

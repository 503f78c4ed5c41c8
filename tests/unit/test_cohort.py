"""Events to visits and to a split by patient, on hand-written patients with the expected rows beside them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.patients import FLOW, TABLES, VISITS, read_events, rows, write_hosp

from leader_platform.config import DataConfig
from leader_platform.data import cohort
from leader_platform.data.prescriptions import MAPPED_SCHEMA
from leader_platform.data.sources.events import no_events

Events = dict[str, pa.Table]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Events:
    return read_events(write_hosp(tmp_path_factory.mktemp("raw")))


def none(kind: str) -> pa.Table:
    return MAPPED_SCHEMA.empty_table() if kind == "medications" else no_events(kind)


def stays(events: Events, config: DataConfig) -> list[int]:
    return cohort.visits(events, config)[0]["hadm_id"].to_pylist()


def test_hand_written_patients_become_the_expected_visits(events: Events) -> None:
    visits, _ = cohort.visits(events, DataConfig())
    assert visits.schema == cohort.VISIT_SCHEMA
    assert rows(visits) == VISITS
    assert visits["labels"].equals(visits["medications"])


def test_visits_do_not_depend_on_the_order_of_rows(events: Events) -> None:
    shuffled = {}
    for kind, table in events.items():
        order = list(range(len(table)))
        random.Random(kind).shuffle(order)
        shuffled[kind] = table.take(order)
    assert cohort.visits(shuffled, DataConfig())[0].equals(cohort.visits(events, DataConfig())[0])


def test_every_step_of_the_cohort_is_counted(events: Events) -> None:
    _, tally = cohort.visits(events, DataConfig())
    assert {step: tally[("flow", step)] for step in cohort.FLOW} == FLOW


def test_a_label_window_keeps_what_was_started_before_its_end(events: Events) -> None:
    visits, tally = cohort.visits(events, DataConfig(label_window_hours=24))
    labels = dict(zip(visits["hadm_id"].to_pylist(), visits["labels"].to_pylist(), strict=True))
    assert labels == {
        2000: ["ATC:N02B", "ATC:B01A", "ATC:C07A"],
        1000: ["ATC:N02B", "ATC:C03C"],
        3001: ["ATC:N02B"],
        3003: ["ATC:N02B", "ATC:C09A"],  # furosemide came exactly 24 hours after admission
        5001: ["ATC:B01A", "ATC:N02B"],
        6001: [],
    }
    # Aspirin EC, furosemide, and both of patient 50.
    assert tally[("removed", "data.label_window_hours")] == 4


def test_history_shows_the_whole_stay_whatever_the_label_window(events: Events) -> None:
    visits, tally = cohort.visits(events, DataConfig(label_window_hours=24))
    assert rows(visits) == rows(cohort.visits(events, DataConfig())[0])
    assert {step: tally[("flow", step)] for step in cohort.FLOW} == FLOW


def test_required_procedures_drop_visits_without(events: Events) -> None:
    visits, tally = cohort.visits(events, DataConfig(require_procedures=True))
    assert visits["hadm_id"].to_pylist() == [2000, 3003, 6001]
    assert visits["visit_number"].to_pylist() == [1, 1, 1]
    assert tally[("flow", "with a procedure, where required")] == 3
    assert tally[("removed", "data.require_procedures")] == 3


def test_min_visits_counts_kept_visits_alone(events: Events) -> None:
    assert stays(events, DataConfig(min_visits=2)) == [2000, 1000, 3001, 3003]
    assert stays(events, DataConfig(min_visits=3)) == []  # patient 20 has three stays, one without a diagnosis


def test_equal_admission_times_are_ordered_by_admission_number(tmp_path: Path) -> None:
    same = TABLES["admissions"].replace("2151-06-01 08:00:00", "2150-03-01 22:30:00")
    assert stays(read_events(write_hosp(tmp_path, admissions=same)), DataConfig())[:2] == [1000, 2000]


def test_rows_given_twice_count_once(tmp_path: Path, events: Events) -> None:
    doubled = {name: text + text.partition("\n")[2] for name, text in TABLES.items()}
    visits, _ = cohort.visits(read_events(write_hosp(tmp_path, **doubled)), DataConfig())
    assert visits.equals(cohort.visits(events, DataConfig())[0])


def test_a_patient_missing_from_patients_is_kept_without_age_and_sex(tmp_path: Path) -> None:
    fewer = TABLES["patients"].replace("40,M,91,2140,2014 - 2016,2141-01-01\n", "")
    visits = rows(cohort.visits(read_events(write_hosp(tmp_path, patients=fewer)), DataConfig())[0])
    (alone,) = [row for row in visits if row["subject_id"] == 40]
    assert (alone["age"], alone["gender"]) == (None, None)


def test_a_shard_without_anyone_gives_no_visits() -> None:
    nothing = {kind: none(kind) for kind in ("patients", "admissions", "diagnoses", "procedures", "medications")}
    visits, tally = cohort.visits(nothing, DataConfig(label_window_hours=24))
    assert len(visits) == 0
    assert visits.schema == cohort.VISIT_SCHEMA
    assert sum(tally.values()) == 0


@pytest.mark.parametrize("kind", ["procedures", "diagnoses", "medications"])
def test_a_shard_without_one_kind_of_events_is_assembled(events: Events, kind: str) -> None:
    visits, _ = cohort.visits({**events, kind: none(kind)}, DataConfig())
    assert len(visits) == (6 if kind == "procedures" else 0)


def test_tallies_of_shards_add_up_to_the_cohort(events: Events) -> None:
    whole = cohort.visits(events, DataConfig(label_window_hours=24))[1]
    parts = [cohort.visits(shard(events, rest), DataConfig(label_window_hours=24))[1] for rest in (0, 1)]
    assert parts[0] + parts[1] == +whole


def shard(events: Events, rest: int) -> Events:
    """The patients whose number in tens is even or odd."""
    chosen = {}
    for kind, table in events.items():
        if "subject_id" in table.column_names:
            keep = [subject // 10 % 2 == rest for subject in table["subject_id"].to_pylist()]
            table = table.filter(pa.array(keep, pa.bool_()))
        chosen[kind] = table
    return chosen


def split_of(subjects: Iterable[int], config: DataConfig) -> dict[int, str]:
    return cohort.split_by_patient(dict.fromkeys(subjects), config)


def sizes(split: dict[int, str]) -> tuple[int, int, int]:
    names = list(split.values())
    return names.count("train"), names.count("validation"), names.count("test")


def test_a_split_has_the_shares_that_were_asked() -> None:
    config = DataConfig(validation_fraction=0.2, test_fraction=0.3)
    assert sizes(split_of(range(1000), config)) == (500, 200, 300)


def test_the_smallest_cohort_has_one_patient_in_each_split() -> None:
    assert sizes(split_of([7, 8, 9], DataConfig())) == (1, 1, 1)


def test_a_split_does_not_depend_on_order_or_repetition() -> None:
    subjects = list(range(100))
    again = subjects * 3
    random.Random(0).shuffle(again)
    assert split_of(again, DataConfig()) == split_of(subjects, DataConfig())


def test_another_seed_gives_another_split() -> None:
    first, second = (split_of(range(100), DataConfig(split_seed=seed)) for seed in (0, 1))
    assert first != second
    assert sizes(first) == sizes(second)


def test_a_split_does_not_follow_the_order_of_patients() -> None:
    split = split_of(range(1000), DataConfig())
    tested = [subject for subject, name in split.items() if name == "test"]
    assert 400 < sum(tested) / len(tested) < 600


def test_a_split_by_time_tests_on_the_latest_patients() -> None:
    years = {subject: 2008 + subject // 10 for subject in range(100)}
    split = cohort.split_by_patient(years, DataConfig(split="time", validation_fraction=0.2, test_fraction=0.1))
    assert {subject for subject, name in split.items() if name == "test"} == set(range(90, 100))
    assert {subject for subject, name in split.items() if name == "validation"} == set(range(70, 90))


def test_patients_of_one_year_are_told_apart_by_the_seed() -> None:
    years = dict.fromkeys(range(100), 2010)
    first, second = (cohort.split_by_patient(years, DataConfig(split="time", split_seed=seed)) for seed in (0, 1))
    assert first != second
    assert first == split_of(range(100), DataConfig(split_seed=0))


def faults(changes: dict[str, str], tmp_path: Path) -> dict[str, int]:
    _, tally = cohort.visits(read_events(write_hosp(tmp_path, **changes)), DataConfig())
    return {key[1]: count for key, count in tally.items() if key[0] == "fault"}


@pytest.mark.parametrize(
    ("table", "row", "fault"),
    [
        ("admissions", "10,1000,2151-06-01 08:00:00,,,,,", "admissions: rows that repeat a stay"),
        ("patients", "10,F,70,2150,2014 - 2016,", "patients: rows that repeat a patient"),
        (
            "admissions",
            "99,9000,2151-06-01 08:00:00,,,,,",
            "admissions: of patients who are not in the table of patients",
        ),
        ("admissions", "10,9000,2010-06-01 08:00:00,,,,,", "admissions: before the patient's birth, so without an age"),
        ("diagnoses_icd", "10,9999,1,I10,10", "diagnoses: rows of an admission that the patient does not have"),
        ("diagnoses_icd", "20,1000,1,I10,10", "diagnoses: rows of an admission that the patient does not have"),
        ("procedures_icd", "10,9999,1,,3961,9", "procedures: rows of an admission that the patient does not have"),
        ("diagnoses_icd", "10,1000,1,N179,10", "diagnoses: rows given twice, counted once"),
        (
            "prescriptions",
            "10,9999,2151-06-01 09:00:00,,MAIN,Aspirin,,0",
            "prescriptions: rows of an admission that the patient does not have",
        ),
        (
            "prescriptions",
            "10,1000,2151-05-30 09:00:00,,MAIN,Aspirin,,0",
            "prescriptions: that start more than a day before the stay, kept",
        ),
        (
            "prescriptions",
            "10,1000,2151-06-07 09:00:00,,MAIN,Aspirin,,0",
            "prescriptions: that start more than a day after the stay, kept",
        ),
        (
            "admissions",
            "10,9000,2151-08-01 08:00:00,2151-07-01 08:00:00,,,,",
            "admissions: that end before they begin, kept",
        ),
    ],
)
def test_a_faulty_row_is_counted(tmp_path: Path, table: str, row: str, fault: str) -> None:
    assert faults({table: TABLES[table] + row + "\n"}, tmp_path) == {fault: 1}


def test_clean_tables_have_no_faults(tmp_path: Path) -> None:
    assert faults({}, tmp_path) == {}


@pytest.mark.parametrize("subject", [10, 20])
def test_a_stays_number_under_two_patients_is_two_stays(tmp_path: Path, subject: int) -> None:
    """So that it does not matter which patients a shard holds."""
    changed = {
        "admissions": TABLES["admissions"] + "20,1000,2125-01-01 08:00:00,,,,,\n",
        "diagnoses_icd": TABLES["diagnoses_icd"] + "20,1000,1,I10,10\n",
        "prescriptions": TABLES["prescriptions"] + "20,1000,2125-01-01 09:00:00,,MAIN,Warfarin,,0\n",
    }
    events = read_events(write_hosp(tmp_path, **changed))
    alone = {
        kind: table.filter(pc.equal(table["subject_id"], subject))
        for kind, table in events.items()
        if kind[-6:] != "titles"
    }
    visits, _ = cohort.visits(events, DataConfig())
    whole = [row for row in rows(visits) if row["subject_id"] == subject]
    assert rows(cohort.visits(alone, DataConfig())[0]) == whole
    assert ["ATC:B01A"] in [row["medications"] for row in whole] or subject == 10


def test_what_has_no_start_is_not_counted_as_outside_the_window(tmp_path: Path) -> None:
    undated = TABLES["prescriptions"] + "10,1000,,,MAIN,Warfarin,,0\n"
    visits, tally = cohort.visits(
        read_events(write_hosp(tmp_path, prescriptions=undated)), DataConfig(label_window_hours=24)
    )
    assert tally[("removed", "data.label_window_hours")] == 4
    assert tally[("left out", "prescriptions: without a start, so not in the label window")] == 1
    (stay,) = [row for row in visits.to_pylist() if row["hadm_id"] == 1000]
    assert "ATC:B01A" in stay["medications"]
    assert "ATC:B01A" not in stay["labels"]

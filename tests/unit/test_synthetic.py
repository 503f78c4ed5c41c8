"""The synthetic cohort as files: reproducible, well-formed as MIMIC-IV, plausible."""

import errno
import gzip
import hashlib
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from leader_platform.data.drugs import DrugMap
from leader_platform.data.synthetic import write, write_raw
from leader_platform.data.synthetic.blocks import MAX_PATIENTS, PATIENTS_PER_BLOCK, Block
from leader_platform.data.synthetic.parameters import Parameters, load_parameters
from leader_platform.errors import UserError

HEADERS = {
    "patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "admissions": (
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
        "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag"
    ),
    "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "procedures_icd": "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
    "prescriptions": (
        "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,stoptime,drug_type,drug,"
        "formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,"
        "doses_per_24_hrs,route"
    ),
    "d_icd_diagnoses": "icd_code,icd_version,long_title",
    "d_icd_procedures": "icd_code,icd_version,long_title",
}
NUM_PATIENTS = 1000

Tables = dict[str, pd.DataFrame]
Schema = Literal["mimic3", "mimic4"]


def read_tables(folder: Path) -> Tables:
    return {name: pd.read_csv(folder / "hosp" / f"{name}.csv.gz", dtype=str, keep_default_na=False) for name in HEADERS}


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.csv.gz"))}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    out = tmp_path_factory.mktemp("synthetic") / "cohort"
    write_raw("mimic4", out, NUM_PATIENTS, seed=0)
    return read_tables(out)


@pytest.fixture(scope="module")
def main_orders(cohort: Tables) -> pd.DataFrame:
    prescriptions = cohort["prescriptions"]
    return prescriptions[prescriptions.drug_type == "MAIN"]


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    write_raw("mimic4", tmp_path / "a", 20, seed=3)
    write_raw("mimic4", tmp_path / "b", 20, seed=3)
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "b")


def test_other_seed_gives_other_patients(tmp_path: Path) -> None:
    write_raw("mimic4", tmp_path / "a", 20, seed=3)
    write_raw("mimic4", tmp_path / "b", 20, seed=4)
    first, second = read_bytes(tmp_path / "a"), read_bytes(tmp_path / "b")
    assert {name for name in first if first[name] == second[name]} == {
        "d_icd_diagnoses.csv.gz",
        "d_icd_procedures.csv.gz",
    }


@pytest.mark.parametrize("schema", ["mimic3", "mimic4"])
def test_a_smaller_cohort_is_the_beginning_of_a_larger_one(schema: Schema, tmp_path: Path) -> None:
    write_raw(schema, tmp_path / "small", PATIENTS_PER_BLOCK - 5, seed=1)
    write_raw(schema, tmp_path / "large", PATIENTS_PER_BLOCK + 5, seed=1)
    small, large = read_bytes(tmp_path / "small"), read_bytes(tmp_path / "large")
    for name in small:
        assert gzip.decompress(large[name]).startswith(gzip.decompress(small[name])), name


@pytest.mark.parametrize(("schema", "digest"), [("mimic3", "48217d1cacec4b8f"), ("mimic4", "7dddedbe61dc40be")])
def test_a_seed_gives_these_tables_on_any_machine(schema: Schema, digest: str, tmp_path: Path) -> None:
    write_raw(schema, tmp_path / "cohort", 20, seed=0)
    content = b"".join(gzip.decompress(packed) for packed in read_bytes(tmp_path / "cohort").values())
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_progress_counts_the_patients_written(tmp_path: Path) -> None:
    seen: list[int] = []
    write_raw("mimic4", tmp_path / "cohort", PATIENTS_PER_BLOCK + 5, seed=0, on_progress=seen.append)
    assert seen == [PATIENTS_PER_BLOCK, PATIENTS_PER_BLOCK + 5]


def test_headers_are_those_of_mimic(tmp_path: Path) -> None:
    write_raw("mimic4", tmp_path / "cohort", 1, seed=0)
    written = {
        path.name: gzip.decompress(path.read_bytes()).split(b"\n")[0].decode()
        for path in (tmp_path / "cohort" / "hosp").iterdir()
    }
    assert written == {f"{name}.csv.gz": header for name, header in HEADERS.items()}


def test_counts_are_the_rows_written(tmp_path: Path) -> None:
    counts = write_raw("mimic4", tmp_path / "cohort", 15, seed=0)
    tables = read_tables(tmp_path / "cohort")
    assert counts.patients == len(tables["patients"]) == 15
    assert counts.admissions == len(tables["admissions"])
    assert counts.diagnoses == len(tables["diagnoses_icd"])
    assert counts.procedures == len(tables["procedures_icd"])
    assert counts.prescriptions == len(tables["prescriptions"])


def test_ids_refer_to_known_rows(cohort: Tables) -> None:
    patients, admissions = cohort["patients"], cohort["admissions"]
    assert patients.subject_id.is_unique
    assert admissions.hadm_id.is_unique
    assert set(admissions.subject_id) == set(patients.subject_id)
    known = set(zip(admissions.subject_id, admissions.hadm_id, strict=True))
    for name in ("diagnoses_icd", "procedures_icd", "prescriptions"):
        rows = cohort[name]
        assert set(zip(rows.subject_id, rows.hadm_id, strict=True)) <= known, name


@pytest.mark.parametrize(
    ("rows", "titles"), [("diagnoses_icd", "d_icd_diagnoses"), ("procedures_icd", "d_icd_procedures")]
)
def test_every_code_has_one_title(cohort: Tables, rows: str, titles: str) -> None:
    known = list(zip(cohort[titles].icd_code, cohort[titles].icd_version, strict=True))
    assert len(known) == len(set(known))
    assert set(zip(cohort[rows].icd_code, cohort[rows].icd_version, strict=True)) <= set(known)
    assert cohort[titles].long_title.str.len().min() > 4
    assert not cohort[titles].icd_code.str.contains(".", regex=False).any()


def test_codes_of_a_visit_are_numbered_and_distinct(cohort: Tables) -> None:
    for name in ("diagnoses_icd", "procedures_icd"):
        rows = cohort[name]
        assert not rows.duplicated(["hadm_id", "icd_code", "icd_version"]).any()
        numbers = rows.assign(number=rows.seq_num.astype(int)).groupby("hadm_id").number.agg(["max", "size", "nunique"])
        assert (numbers["max"] == numbers["size"]).all()
        assert (numbers["nunique"] == numbers["size"]).all()


def test_times_are_in_order(cohort: Tables) -> None:
    admissions = cohort["admissions"].copy()
    for column in ("admittime", "dischtime"):
        admissions[column] = pd.to_datetime(admissions[column], format="%Y-%m-%d %H:%M:%S")
    assert (admissions.dischtime > admissions.admittime).all()
    assert admissions.admittime.dt.year.between(2110, 2200).all()
    in_time = admissions.sort_values(["subject_id", "admittime"])
    next_admission = in_time.groupby("subject_id").admittime.shift(-1)
    assert (next_admission.isna() | (next_admission > in_time.dischtime)).all()
    orders = cohort["prescriptions"].merge(admissions, on="hadm_id")
    start = pd.to_datetime(orders.starttime, format="%Y-%m-%d %H:%M:%S")
    stop = pd.to_datetime(orders.stoptime, format="%Y-%m-%d %H:%M:%S")
    assert (start >= orders.admittime.dt.floor("h")).all()
    assert (start <= stop).all()
    assert (stop <= orders.dischtime).all()


def test_ids_of_visits_say_nothing_about_their_time(cohort: Tables) -> None:
    admissions = cohort["admissions"].sort_values(["subject_id", "admittime"])
    previous = admissions.groupby("subject_id").hadm_id.shift()
    later = admissions[previous.notna()]
    assert 0.4 < (later.hadm_id > previous[previous.notna()]).mean() < 0.6


def test_ages_and_deaths_are_plausible(cohort: Tables) -> None:
    patients, admissions = cohort["patients"], cohort["admissions"]
    ages = patients.anchor_age.astype(int)
    assert ages.between(18, 91).all()
    assert not ages.isin([90]).any()
    last = admissions.groupby("subject_id").dischtime.max().str[:10]
    died = patients[patients.dod != ""].set_index("subject_id").dod
    assert 0 < len(died) < 0.4 * len(patients)
    assert (died >= last[died.index]).all()
    here = admissions[admissions.hospital_expire_flag == "1"]
    assert (here.deathtime == here.dischtime).all()
    assert (here.discharge_location == "DIED").all()
    assert not here.subject_id.duplicated().any()


def test_marginals_are_near_those_of_mimic4(cohort: Tables, main_orders: pd.DataFrame) -> None:
    """`docs/SYNTHETIC.md` has the figures of MIMIC-IV and its demo."""
    num_visits = len(cohort["admissions"])
    visits = cohort["admissions"].groupby("subject_id").size()
    assert 2.3 < visits.mean() < 2.8
    assert 0.42 < (visits == 1).mean() < 0.52
    assert visits.max() >= 15
    assert 9 < len(cohort["diagnoses_icd"]) / num_visits < 11.5
    assert 1.2 < len(cohort["procedures_icd"]) / num_visits < 1.8
    assert 0.3 < 1 - cohort["procedures_icd"].hadm_id.nunique() / num_visits < 0.45
    assert 0.003 < 1 - cohort["diagnoses_icd"].hadm_id.nunique() / num_visits < 0.02
    assert 0.02 < 1 - main_orders.hadm_id.nunique() / num_visits < 0.04
    assert 0.3 < (cohort["diagnoses_icd"].icd_version == "10").mean() < 0.5
    assert 52 < len(main_orders) / num_visits < 60
    assert {"MAIN", "BASE", "ADDITIVE"} == set(cohort["prescriptions"].drug_type)
    class_of = {drug.name: drug.atc_class for drug in load_parameters().drugs}
    classes = main_orders.assign(atc_class=main_orders.drug.map(class_of))
    assert 0.002 < (classes.atc_class == "").mean() < 0.01
    classes = classes[classes.atc_class != ""]
    assert classes.atc_class.nunique() > 110
    assert 20 < classes.groupby("hadm_id").atc_class.nunique().mean() < 23


def test_drug_names_map_to_the_classes_that_the_model_means() -> None:
    drug_map = DrugMap.from_package()
    for drug in load_parameters().drugs:
        assert (drug_map.atc(drug.name) or "")[:4] == drug.atc_class, drug.name


def test_orders_start_on_the_first_day_and_later(cohort: Tables, main_orders: pd.DataFrame) -> None:
    orders = main_orders.merge(cohort["admissions"], on="hadm_id")
    waited = pd.to_datetime(orders.starttime) - pd.to_datetime(orders.admittime)
    assert 0.3 < (waited < pd.Timedelta(hours=24)).mean() < 0.7


def test_sex_and_age_rule_conditions_out(cohort: Tables) -> None:
    diagnoses = cohort["diagnoses_icd"].merge(cohort["patients"], on="subject_id")
    titles = cohort["d_icd_diagnoses"].set_index(["icd_version", "icd_code"]).long_title
    title = pd.Series([titles[key] for key in zip(diagnoses.icd_version, diagnoses.icd_code, strict=True)])
    # A few are miscoded on purpose.
    assert (diagnoses.gender[title.str.contains("prosta", case=False).to_numpy()] == "M").mean() > 0.85
    assert (diagnoses.gender[title.str.contains("deliver", case=False).to_numpy()] == "F").mean() > 0.85


@pytest.mark.parametrize("num_patients", [0, -5, MAX_PATIENTS + 1])
def test_refuses_an_impossible_number_of_patients(tmp_path: Path, num_patients: int) -> None:
    with pytest.raises(UserError, match=f"{num_patients} .*ask for 1 to"):
        write_raw("mimic4", tmp_path / "cohort", num_patients, seed=0)
    assert not any(tmp_path.iterdir())


def test_refuses_a_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="-1 is negative"):
        write_raw("mimic4", tmp_path / "cohort", 1, seed=-1)


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    kept = tmp_path / "cohort" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_raw("mimic4", tmp_path / "cohort", 1, seed=0)
    with pytest.raises(UserError, match="not an empty folder"):
        write_raw("mimic4", kept, 1, seed=0)
    assert kept.read_text() == "mine"


def test_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    write_raw("mimic4", tmp_path / "cohort", 1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_block = write.draw_block

    def fail_at_second(parameters: Parameters, seed: int, number: int, uses_icd10: bool) -> Block:
        if number == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return draw_block(parameters, seed, number, uses_icd10)

    monkeypatch.setattr(write, "draw_block", fail_at_second)
    with pytest.raises(UserError, match=r"no room left for .*cohort"):
        write_raw("mimic4", tmp_path / "cohort", PATIENTS_PER_BLOCK + 1, seed=0)
    assert not any(tmp_path.iterdir())

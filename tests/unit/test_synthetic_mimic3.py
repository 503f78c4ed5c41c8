"""The synthetic cohort as tables of MIMIC-III v1.4."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from leader_platform.data.synthetic import write_raw

HEADERS = {
    "ADMISSIONS": (
        "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,ADMISSION_LOCATION,DISCHARGE_LOCATION,"
        "INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,EDREGTIME,EDOUTTIME,DIAGNOSIS,HOSPITAL_EXPIRE_FLAG,"
        "HAS_CHARTEVENTS_DATA"
    ),
    "DIAGNOSES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
    "D_ICD_DIAGNOSES": "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE",
    "D_ICD_PROCEDURES": "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE",
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
    "PRESCRIPTIONS": (
        "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTDATE,ENDDATE,DRUG_TYPE,DRUG,DRUG_NAME_POE,DRUG_NAME_GENERIC,"
        "FORMULARY_DRUG_CD,GSN,NDC,PROD_STRENGTH,DOSE_VAL_RX,DOSE_UNIT_RX,FORM_VAL_DISP,FORM_UNIT_DISP,ROUTE"
    ),
    "PROCEDURES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
}

Tables = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "cohort"
    write_raw("mimic3", out, 1005, seed=0)  # two blocks
    return out


@pytest.fixture(scope="module")
def cohort(folder: Path) -> Tables:
    return {name: pd.read_csv(folder / f"{name}.csv.gz", dtype=str, keep_default_na=False) for name in HEADERS}


def lines(folder: Path, name: str) -> list[str]:
    return gzip.decompress((folder / f"{name}.csv.gz").read_bytes()).decode().splitlines()


def test_files_and_headers_are_those_of_mimic3(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{name}.csv.gz" for name in HEADERS}
    for name, header in HEADERS.items():
        assert lines(folder, name)[0] == '"' + header.replace(",", '","') + '"'


def test_text_is_quoted_and_numbers_dates_and_empty_fields_are_not(folder: Path) -> None:
    assert lines(folder, "D_ICD_DIAGNOSES")[1] == (
        '1,"00845","Intestinal infection due","Intestinal infection due to Clostridium difficile"'
    )
    fields = next(line for line in lines(folder, "PRESCRIPTIONS")[1:] if '"Warfarin"' in line).split(",")
    row_id, subject_id, hadm_id, icustay_id, start, stop, *rest = fields
    assert all(number.isdigit() for number in (row_id, subject_id, hadm_id))
    assert icustay_id == ""
    assert all(len(date) == 19 and date.endswith(" 00:00:00") for date in (start, stop))
    names = ['"MAIN"', '"Warfarin"', '"Warfarin"', '"Warfarin"', '"WARF25"', "", ""]
    assert rest == [*names, '"2.5 mg TAB"', '"2.5"', '"mg"', '"1"', '"TAB"', '"PO/NG"']


def test_ids_refer_to_known_rows_and_rows_are_numbered(cohort: Tables) -> None:
    assert cohort["PATIENTS"].SUBJECT_ID.is_unique
    assert cohort["ADMISSIONS"].HADM_ID.is_unique
    assert set(cohort["ADMISSIONS"].SUBJECT_ID) == set(cohort["PATIENTS"].SUBJECT_ID)
    stays = set(zip(cohort["ADMISSIONS"].SUBJECT_ID, cohort["ADMISSIONS"].HADM_ID, strict=True))
    for name in ("DIAGNOSES_ICD", "PROCEDURES_ICD", "PRESCRIPTIONS"):
        assert set(zip(cohort[name].SUBJECT_ID, cohort[name].HADM_ID, strict=True)) <= stays, name
    for name, table in cohort.items():
        row_ids = table.ROW_ID.astype(int)
        assert row_ids.is_monotonic_increasing, name
        assert row_ids.is_unique, name


def test_all_codes_are_of_icd9_and_have_a_title(cohort: Tables) -> None:
    for rows, titles in (("DIAGNOSES_ICD", "D_ICD_DIAGNOSES"), ("PROCEDURES_ICD", "D_ICD_PROCEDURES")):
        assert cohort[titles].ICD9_CODE.is_unique
        assert set(cohort[rows].ICD9_CODE) <= set(cohort[titles].ICD9_CODE)
        assert (cohort[titles].SHORT_TITLE.str.len() <= 24).all()
    assert cohort["DIAGNOSES_ICD"].ICD9_CODE.str.fullmatch(r"(\d{3}|V\d{2}|E\d{3})\d{0,2}").all()


def test_orders_lie_on_days_of_the_stay(cohort: Tables) -> None:
    orders = cohort["PRESCRIPTIONS"].merge(cohort["ADMISSIONS"], on="HADM_ID")
    start, stop = pd.to_datetime(orders.STARTDATE), pd.to_datetime(orders.ENDDATE)
    assert (start >= pd.to_datetime(orders.ADMITTIME).dt.normalize()).all()
    assert (start <= stop).all()
    assert (stop <= pd.to_datetime(orders.DISCHTIME)).all()


def test_who_grows_older_than_89_is_born_300_years_before_the_first_admission(cohort: Tables) -> None:
    patients = cohort["PATIENTS"].set_index("SUBJECT_ID")
    stays = cohort["ADMISSIONS"].groupby("SUBJECT_ID").ADMITTIME
    born = patients.DOB.str[:4].astype(int)
    first_age = stays.min().str[:4].astype(int)[born.index] - born
    last_age = stays.max().str[:4].astype(int)[born.index] - born
    is_hidden = first_age == 300
    assert 0.03 < is_hidden.mean() < 0.15
    same_day = stays.min()[born.index].str[4:10] == patients.DOB.str[4:10]
    assert same_day[is_hidden].mean() > 0.99  # there is no 29 February in most years
    assert first_age[~is_hidden].between(18, 89).all()
    assert last_age[~is_hidden].max() <= 89


def test_deaths_agree_between_tables(cohort: Tables) -> None:
    patients, stays = cohort["PATIENTS"].set_index("SUBJECT_ID"), cohort["ADMISSIONS"]
    died_there = stays[stays.HOSPITAL_EXPIRE_FLAG == "1"].set_index("SUBJECT_ID")
    assert len(died_there) > 10
    assert (died_there.DEATHTIME == died_there.DISCHTIME).all()
    assert (died_there.DISCHARGE_LOCATION == "DEAD/EXPIRED").all()
    assert set(patients[patients.DOD_HOSP != ""].index) == set(died_there.index)
    assert (patients.DOD_HOSP[died_there.index].str[:10] == died_there.DISCHTIME.str[:10]).all()
    assert ((patients.DOD != "") == (patients.EXPIRE_FLAG == "1")).all()
    assert ((patients.DOD_HOSP + patients.DOD_SSN) == patients.DOD).all()


def test_the_patients_are_those_of_the_mimic4_tables(cohort: Tables, tmp_path: Path) -> None:
    write_raw("mimic4", tmp_path / "cohort", 1005, seed=0)
    other = pd.read_csv(tmp_path / "cohort" / "hosp" / "patients.csv.gz", dtype=str)
    assert cohort["PATIENTS"].GENDER.tolist() == other.gender.tolist()
    assert (cohort["PATIENTS"].SUBJECT_ID.astype(int) + 9_999_999).tolist() == other.subject_id.astype(int).tolist()

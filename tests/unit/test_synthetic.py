"""The synthetic cohort: reproducible, well-formed as MIMIC-IV, plausible, learnable."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leader_platform.data import synthetic
from leader_platform.data.drugs import DrugMap
from leader_platform.data.synthetic import MAX_PATIENTS, write_mimic4
from leader_platform.data.synthetic_tables import load_tables
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
NUM_PATIENTS = 400

Tables = dict[str, pd.DataFrame]


def read_tables(folder: Path) -> Tables:
    return {name: pd.read_csv(folder / "hosp" / f"{name}.csv.gz", dtype=str, keep_default_na=False) for name in HEADERS}


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "hosp").iterdir())}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    out = tmp_path_factory.mktemp("synthetic") / "cohort"
    write_mimic4(out, NUM_PATIENTS, seed=0)
    return read_tables(out)


@pytest.fixture(scope="module")
def main_orders(cohort: Tables) -> pd.DataFrame:
    prescriptions = cohort["prescriptions"]
    return prescriptions[prescriptions.drug_type == "MAIN"]


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    write_mimic4(tmp_path / "a", 20, seed=3)
    write_mimic4(tmp_path / "b", 20, seed=3)
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "b")


def test_other_seed_gives_other_patients(tmp_path: Path) -> None:
    write_mimic4(tmp_path / "a", 20, seed=3)
    write_mimic4(tmp_path / "b", 20, seed=4)
    first, second = read_bytes(tmp_path / "a"), read_bytes(tmp_path / "b")
    assert {name for name in first if first[name] == second[name]} == {
        "d_icd_diagnoses.csv.gz",
        "d_icd_procedures.csv.gz",
    }


def test_a_smaller_cohort_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    write_mimic4(tmp_path / "small", 10, seed=1)
    write_mimic4(tmp_path / "large", 30, seed=1)
    small, large = read_bytes(tmp_path / "small"), read_bytes(tmp_path / "large")
    for name in small:
        assert gzip.decompress(large[name]).startswith(gzip.decompress(small[name])), name


def test_headers_are_those_of_mimic(tmp_path: Path) -> None:
    write_mimic4(tmp_path / "cohort", 1, seed=0)
    written = {
        path.name: gzip.decompress(path.read_bytes()).split(b"\n")[0].decode()
        for path in (tmp_path / "cohort" / "hosp").iterdir()
    }
    assert written == {f"{name}.csv.gz": header for name, header in HEADERS.items()}


def test_counts_are_the_rows_written(tmp_path: Path) -> None:
    counts = write_mimic4(tmp_path / "cohort", 15, seed=0)
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


def test_marginals_lie_in_their_bands(cohort: Tables, main_orders: pd.DataFrame) -> None:
    num_visits = len(cohort["admissions"])
    visits = cohort["admissions"].groupby("subject_id").size()
    assert 2.1 < visits.mean() < 2.9
    assert 0.42 < (visits == 1).mean() < 0.55
    assert visits.max() >= 8
    assert 9 < len(cohort["diagnoses_icd"]) / num_visits < 13
    assert 1.1 < len(cohort["procedures_icd"]) / num_visits < 1.9
    assert 0.25 < 1 - cohort["procedures_icd"].hadm_id.nunique() / num_visits < 0.55
    assert 0.003 < 1 - cohort["diagnoses_icd"].hadm_id.nunique() / num_visits < 0.03
    assert 0.01 < 1 - main_orders.hadm_id.nunique() / num_visits < 0.06
    assert set(cohort["diagnoses_icd"].icd_version) == {"9", "10"}
    classes = {drug.name: drug.atc_class for drug in load_tables().drugs}
    classified = main_orders.assign(atc_class=main_orders.drug.map(classes))
    assert 0.002 < (classified.atc_class == "").mean() < 0.02
    classified = classified[classified.atc_class != ""]
    assert classified.atc_class.nunique() > 90
    assert main_orders.drug.nunique() > 180
    assert 15 < classified.groupby("hadm_id").atc_class.nunique().mean() < 22
    assert {"MAIN", "BASE"} <= set(cohort["prescriptions"].drug_type)


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


def test_drug_names_map_to_classes(main_orders: pd.DataFrame) -> None:
    drug_map = DrugMap.from_package()
    mapped = {name: bool(drug_map.atc(name)) for name in main_orders.drug.unique()}
    assert main_orders.drug.map(mapped).mean() >= 0.97


@pytest.mark.parametrize("num_patients", [0, -5, MAX_PATIENTS + 1])
def test_refuses_an_impossible_number_of_patients(tmp_path: Path, num_patients: int) -> None:
    with pytest.raises(UserError, match=f"{num_patients} .*ask for 1 to"):
        write_mimic4(tmp_path / "cohort", num_patients, seed=0)
    assert not any(tmp_path.iterdir())


def test_refuses_a_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="-1 is negative"):
        write_mimic4(tmp_path / "cohort", 1, seed=-1)


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    kept = tmp_path / "cohort" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_mimic4(tmp_path / "cohort", 1, seed=0)
    with pytest.raises(UserError, match="not an empty folder"):
        write_mimic4(kept, 1, seed=0)
    assert kept.read_text() == "mine"


def test_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    write_mimic4(tmp_path / "cohort", 1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_patient = synthetic.draw_patient

    def fail_at_third(tables: object, seed: int, index: int) -> object:
        if index == 2:
            raise OSError("disk full")
        return draw_patient(tables, seed, index)  # type: ignore[arg-type]

    monkeypatch.setattr(synthetic, "draw_patient", fail_at_third)
    with pytest.raises(OSError, match="disk full"):
        write_mimic4(tmp_path / "cohort", 5, seed=0)
    assert not any(tmp_path.iterdir())


def _multi_hot(rows: pd.DataFrame, column: str, hadm_ids: np.ndarray) -> np.ndarray:
    return pd.crosstab(rows.hadm_id, rows[column]).clip(upper=1).reindex(hadm_ids, fill_value=0).to_numpy()


@pytest.mark.slow
def test_codes_predict_drugs_better_than_popularity(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score

    write_mimic4(tmp_path / "cohort", 600, seed=0)
    tables = read_tables(tmp_path / "cohort")
    orders = tables["prescriptions"].query("drug_type == 'MAIN'")
    codes = pd.concat([tables["diagnoses_icd"], tables["procedures_icd"].assign(icd_code=lambda r: "p" + r.icd_code)])
    hadm_ids = np.intersect1d(orders.hadm_id.unique(), tables["diagnoses_icd"].hadm_id.unique())
    subject_ids = tables["admissions"].set_index("hadm_id").subject_id[hadm_ids]
    is_test = subject_ids.isin(tables["patients"].subject_id[:120]).to_numpy()
    features, labels = _multi_hot(codes, "icd_code", hadm_ids), _multi_hot(orders, "drug", hadm_ids)
    prevalence = labels[~is_test].mean(axis=0)
    popularity = np.tile(prevalence, (is_test.sum(), 1))
    learned = popularity.copy()
    for drug in np.flatnonzero((labels[~is_test].sum(axis=0) >= 10) & (prevalence < 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=0.1, solver="liblinear").fit(features[~is_test], labels[~is_test][:, drug])
        learned[:, drug] = model.predict_proba(features[is_test])[:, 1]

    def prauc(scores: np.ndarray) -> float:
        pairs = zip(labels[is_test], scores, strict=True)
        return float(np.mean([average_precision_score(truth, score) for truth, score in pairs]))

    assert 0.35 < prauc(popularity) < 0.6
    assert prauc(learned) > prauc(popularity) + 0.03
    assert prauc(learned) < 0.75  # not trivial either

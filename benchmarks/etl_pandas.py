"""The data set that `leader data prepare` makes of MIMIC-IV tables with its defaults, by plain pandas in one process.

It is what `benchmarks/etl.py` measures against: whole tables in memory, `groupby` for lists, a loop for samples. It
shares with the platform only what is no matter of speed: the drug map, the split of patients, the sentence on age and
sex.
"""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from pathlib import Path

import pandas as pd

from leader_platform.config import LeaderConfig
from leader_platform.data.cohort import split_by_patient
from leader_platform.data.drugs import DrugMap, atc_class, atc_class_names
from leader_platform.data.prompts import profile_sentence

KINDS = ("diagnoses", "procedures", "medications")
PROFILE = ("gender", "age", "insurance", "language", "marital_status", "race")
SUFFIX = {"diagnoses": "CM", "procedures": "PCS"}


def prepare(raw: Path, out: Path) -> None:
    """Read `raw/hosp/*.csv.gz` and write visits, samples by split, the vocabulary and the counts to `out`."""
    config, counts = LeaderConfig(), {}
    visits = make_visits(raw / "hosp", counts)
    split = split_by_patient(dict.fromkeys(visits["subject_id"].unique().tolist()), config.data)
    visits["split"] = visits["subject_id"].map(split)
    vocabulary = make_vocabulary(visits[visits["split"] == "train"])
    out.mkdir(parents=True)
    (out / "vocabulary.json").write_text(json.dumps(vocabulary))
    visits.drop(columns="split").to_parquet(out / "visits.parquet", compression="zstd")
    samples = make_samples(visits, set(vocabulary["medications"]), read_titles(raw / "hosp"), config)
    for name, part in samples.groupby("split"):
        part.drop(columns="split").to_parquet(out / f"{name}.parquet", compression="zstd")
    counts |= count_codes(visits)
    counts["inputs"] = {path.name: sha256(path) for path in sorted((raw / "hosp").glob("*.csv.gz"))}
    (out / "manifest.json").write_text(json.dumps(counts))


def sha256(path: Path) -> str:
    """The checksum of the packed file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_visits(hosp: Path, counts: dict) -> pd.DataFrame:
    """One row a kept admission, by patient and time, with lists of codes; `counts` gets what fell out."""
    patients = pd.read_csv(hosp / "patients.csv.gz", usecols=["subject_id", "gender", "anchor_age", "anchor_year"])
    admissions = pd.read_csv(
        hosp / "admissions.csv.gz",
        usecols=["subject_id", "hadm_id", "admittime", "insurance", "language", "marital_status", "race"],
        parse_dates=["admittime"],
    )
    visits = admissions.drop_duplicates("hadm_id").merge(patients, on="subject_id", how="left")
    visits["age"] = visits["admittime"].dt.year - (visits["anchor_year"] - visits["anchor_age"])
    visits["language"] = visits["language"].replace("?", None)
    for kind, suffix in SUFFIX.items():
        visits[kind] = visits["hadm_id"].map(code_lists(hosp / f"{kind}_icd.csv.gz", suffix, visits, counts))
    medications = read_medications(hosp, visits, counts)
    visits["medications"] = visits["hadm_id"].map(lists(medications, "class"))
    visits["labels"] = visits["medications"]
    visits["substances"] = visits["hadm_id"].map(lists(medications[medications["atc"].str.len() == 11], "atc"))
    counts["flow"] = [len(visits)]
    for kind in ("diagnoses", "medications"):
        visits = visits[visits[kind].notna()]
        counts["flow"].append(len(visits))
    visits = visits.sort_values(["subject_id", "admittime", "hadm_id"])
    visits["visit_number"] = visits.groupby("subject_id").cumcount() + 1
    for kind in ("procedures", "substances"):
        visits[kind] = [value if isinstance(value, list) else [] for value in visits[kind]]
    return visits


def of_known_stays(rows: pd.DataFrame, visits: pd.DataFrame, name: str, counts: dict) -> pd.DataFrame:
    """The rows of admissions that the patient has."""
    known = rows[["subject_id", "hadm_id"]].merge(visits[["subject_id", "hadm_id"]], how="left", indicator=True)
    is_known = (known["_merge"] == "both").to_numpy()
    counts[f"orphans of {name}"] = int((~is_known).sum())
    return rows[is_known]


def code_lists(path: Path, suffix: str, visits: pd.DataFrame, counts: dict) -> pd.Series:
    """Admission -> its codes in order."""
    columns = ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"]
    rows = pd.read_csv(path, usecols=columns, dtype={"icd_code": str})
    rows = of_known_stays(rows[rows["icd_version"].isin([9, 10])], visits, path.name, counts)
    rows["code"] = "ICD" + rows["icd_version"].astype(str) + suffix + ":" + rows["icd_code"].str.strip()
    counts[f"given twice in {path.name}"] = int(rows.duplicated(["hadm_id", "seq_num", "code"]).sum())
    return lists(rows.sort_values(["hadm_id", "seq_num"]), "code")


def lists(rows: pd.DataFrame, column: str) -> pd.Series:
    """Admission -> its distinct values in order."""
    return rows.drop_duplicates(["hadm_id", column]).groupby("hadm_id", sort=False)[column].agg(list)


def read_medications(hosp: Path, visits: pd.DataFrame, counts: dict) -> pd.DataFrame:
    """The mapped MAIN prescriptions in the order of their start."""
    rows = pd.read_csv(
        hosp / "prescriptions.csv.gz",
        usecols=["subject_id", "hadm_id", "starttime", "drug_type", "drug"],
        parse_dates=["starttime"],
    )
    rows = rows[rows["drug_type"] == "MAIN"]
    drugs = DrugMap.from_package()
    rows["atc"] = rows["drug"].map({name: drugs.atc(name) for name in rows["drug"].dropna().unique()})
    unmapped = rows.loc[rows["atc"].isna(), "drug"].value_counts()
    counts["coverage"] = {
        "prescription_rows": len(rows),
        "mapped_rows": len(rows) - int(unmapped.sum()),
        "unmapped_names": len(unmapped),
    }
    rows = of_known_stays(rows.dropna(subset=["atc"]), visits, "prescriptions", counts)
    rows["class"] = "ATC:" + rows["atc"].map(atc_class)
    rows["atc"] = "ATC:" + rows["atc"]
    return rows.sort_values(["hadm_id", "starttime", "atc"])


def make_vocabulary(visits: pd.DataFrame) -> dict[str, list[str]]:
    """Per kind, the codes of the training visits in alphabetical order."""
    return {kind: sorted(visits[kind].explode().dropna().unique()) for kind in KINDS}


def count_codes(visits: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Per kind, the number of distinct codes and their mean number a visit."""
    codes = {kind: visits[kind].explode().dropna() for kind in KINDS}
    return {
        "distinct_codes": {kind: found.nunique() for kind, found in codes.items()},
        "mean_codes_per_visit": {kind: len(found) / len(visits) for kind, found in codes.items()},
    }


def read_titles(hosp: Path) -> dict[str, str]:
    """Code -> title."""
    titles = {f"ATC:{code}": name for code, name in atc_class_names().items()}
    for kind, suffix in SUFFIX.items():
        rows = pd.read_csv(hosp / f"d_icd_{kind}.csv.gz", dtype={"icd_code": str})
        codes = "ICD" + rows["icd_version"].astype(str) + suffix + ":" + rows["icd_code"]
        titles |= dict(zip(codes, rows["long_title"], strict=True))
    return titles


def make_samples(visits: pd.DataFrame, known: set[str], titles: dict[str, str], config: LeaderConfig) -> pd.DataFrame:
    """One row a visit that has a known medication, in the platform's order."""
    samples = []
    for subject, group in groupby(visits.to_dict("records"), key=lambda stay: stay["subject_id"]):
        stays = list(group)
        past_texts: list[str] = []
        for number, stay in enumerate(stays):
            conditions, drugs = stay_texts(stay, titles)
            first = max(0, number - config.data.max_history_visits)
            labels = [code for code in stay["labels"] if code in known]
            if labels:
                samples.append(
                    {
                        "sample_id": f"{subject}-{stay['hadm_id']}",
                        "subject_id": subject,
                        "hadm_id": stay["hadm_id"],
                        "prior_visits": number,
                        "prompt": prompt(stay, past_texts[first:], conditions, config.prompt.history_visits),
                        "history": [{kind: past[kind] for kind in KINDS} for past in stays[first:number]],
                        "diagnoses": stay["diagnoses"],
                        "procedures": stay["procedures"],
                        "labels": labels,
                        **{name: stay[name] for name in PROFILE},
                        "split": stay["split"],
                    }
                )
            past_texts.append(f"{conditions} The patient was prescribed drugs: {drugs}.")
    samples.sort(key=lambda sample: hashlib.sha256(sample["sample_id"].encode()).digest())
    return pd.DataFrame(samples)


def stay_texts(stay: dict, titles: dict[str, str]) -> tuple[str, str]:
    """A stay's conditions and drugs as a prompt tells them."""
    told = {kind: ", ".join(titles.get(code, code.split(":")[-1]) for code in stay[kind]) or "none" for kind in KINDS}
    return f"diagnosis: {told['diagnoses']}; procedures: {told['procedures']}.", told["medications"]


def prompt(stay: dict, past_texts: list[str], conditions: str, history_visits: int) -> str:
    """The paper's prompt."""
    first = max(0, len(past_texts) - history_visits)
    told = [
        f"In the {number} visit, the patient had {text}"
        for number, text in enumerate(past_texts[first:], start=first + 1)
    ]
    parts = [
        profile_sentence({"gender": stay["gender"], "age": stay["age"]}),
        f"The patient has {len(past_texts)} times ICU visits.",
        *told,
        f"In this visit, the patient has {conditions}",
        "Then, the patient should be prescribed:",
    ]
    return " ".join(part for part in parts if part)

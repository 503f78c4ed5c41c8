"""Marginals of the synthetic cohort beside those of a real MIMIC-IV folder: the table of `docs/SYNTHETIC.md`.

python benchmarks/synthetic_marginals.py PATH/TO/mimic-iv-demo --patients 10000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from leader_platform.data.drugs import DrugMap, atc_class
from leader_platform.data.synthetic import write_raw

TABLES = ("patients", "admissions", "diagnoses_icd", "procedures_icd", "prescriptions")


def marginals(folder: Path) -> dict[str, float]:
    """Each marginal by its name; `folder` holds the tables of `hosp`."""
    patients, admissions, diagnoses, procedures, prescriptions = (
        pd.read_csv(folder / f"{name}.csv.gz", dtype=str, keep_default_na=False) for name in TABLES
    )
    visits = admissions.groupby("subject_id").size()
    admitted, discharged = (pd.to_datetime(admissions[name]) for name in ("admittime", "dischtime"))
    return {
        "visits a patient": visits.mean(),
        "patients with one visit, %": 100 * (visits == 1).mean(),
        "age": patients.anchor_age.astype(int).mean(),
        "days of a stay, median": (discharged - admitted).dt.total_seconds().median() / 86400,
        "diagnoses a visit": len(diagnoses) / len(admissions),
        "visits without diagnoses, %": 100 * (1 - diagnoses.hadm_id.nunique() / len(admissions)),
        "diagnoses in ICD-10, %": 100 * (diagnoses.icd_version == "10").mean(),
        "diagnoses shared by a visit and the next, Jaccard": _shared(admissions, diagnoses, diagnoses.icd_code),
        "procedures a visit": len(procedures) / len(admissions),
        "visits without procedures, %": 100 * (1 - procedures.hadm_id.nunique() / len(admissions)),
        "prescription rows a visit": len(prescriptions) / len(admissions),
        **_medications(admissions, prescriptions[prescriptions.drug_type == "MAIN"]),
    }


def _medications(admissions: pd.DataFrame, orders: pd.DataFrame) -> dict[str, float]:
    drug_map = DrugMap.from_package()
    code_of = {name: drug_map.atc(name) for name in orders.drug.unique()}
    orders = orders.assign(atc=orders.drug.map({name: atc_class(code) for name, code in code_of.items() if code}))
    known = orders.dropna(subset=["atc"]).merge(admissions[["hadm_id", "admittime"]], on="hadm_id")
    a_visit = known.groupby("hadm_id").atc.nunique()
    frequency = known.groupby("atc").hadm_id.nunique() / known.hadm_id.nunique()
    is_early = pd.to_datetime(known.starttime) - pd.to_datetime(known.admittime) < pd.Timedelta(hours=24)
    return {
        "of these MAIN": len(orders) / len(admissions),
        "visits without MAIN rows, %": 100 * (1 - orders.hadm_id.nunique() / len(admissions)),
        "MAIN rows that map to a class, %": 100 * orders.atc.notna().mean(),
        "classes": len(frequency),
        "classes in more than half of the visits": (frequency > 0.5).sum(),
        "classes in 10 to 50 %": ((frequency > 0.1) & (frequency <= 0.5)).sum(),
        "classes in 1 to 10 %": ((frequency > 0.01) & (frequency <= 0.1)).sum(),
        "classes a visit": a_visit.mean(),
        "classes a visit, standard deviation": a_visit.std(),
        "classes in the first 24 hours": known[is_early].groupby("hadm_id").atc.nunique().mean(),
        "classes shared by a visit and the next, Jaccard": _shared(admissions, known, known.atc),
    }


def _shared(admissions: pd.DataFrame, rows: pd.DataFrame, values: pd.Series) -> float:
    """What a visit and the patient's next one have in common, on average over visits that have any."""
    has = values.groupby(rows.hadm_id).agg(set)
    in_time = admissions.sort_values(["subject_id", "admittime"])
    before = in_time.groupby("subject_id").hadm_id.shift()
    known = set(has.index)
    pairs = [(a, b) for a, b in zip(before, in_time.hadm_id, strict=True) if a in known and b in known]
    return sum(len(has[a] & has[b]) / len(has[a] | has[b]) for a, b in pairs) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_raw("mimic4", Path(folder) / "cohort", arguments.patients, arguments.seed)
        columns = {"real": marginals(arguments.real / "hosp"), "synthetic": marginals(Path(folder) / "cohort" / "hosp")}
    print(pd.DataFrame(columns).round(2).to_string())


if __name__ == "__main__":
    main()

"""How much of MIMIC-IV's prescriptions the package's drug map covers, and how far the public tables agree with it, with
each other, and with the routes by which the drugs were given.

Usage: python benchmarks/drug_coverage.py PRESCRIPTIONS_CSV_GZ [TERMINOLOGY_DIRECTORY]

The public table of names gives a substance any of its codes (aspirin the dentist's, phenylephrine by infusion that of
eye drops) and lists many names several times. So agreement at the third ATC level has four readings, from strict to
lenient: the package's class is that of the name's last row, which the table's authors take; of its first row; of any
row; or the code is another one of a substance that a row names. Which of two codes is wrong, the route can say: what
was injected or swallowed has no class of local use. All shares are of prescription rows of type MAIN.
"""

import argparse
import json
from collections import defaultdict

import pandas as pd

from leader_platform.data.drugs import CLASS_TABLE, NAME_TABLE, DrugMap

SYSTEMIC_ROUTES = ["IV", "IV DRIP", "IV BOLUS", "IVPCA", "IM", "SC", "SUBCUT", "PO", "PO/NG", "NG", "ORAL"]
# Irrigation, piles and veins, skin (but for what is swallowed against its diseases), vagina, joints, nose, eye and ear.
LOCAL_CLASS = r"B05C|C05|D(?!01B|05B|10B)|G01|M02|R01A|S0"
READINGS = ["last_row", "first_row", "any_row", "any_row_or_substance"]


def read_drugs(prescriptions: str) -> pd.DataFrame:
    """What the MAIN rows say of their drugs, once each (drug, ndc, gsn, route), with `rows`, how many say it."""
    columns = ["drug", "ndc", "gsn", "route"]
    table = pd.read_csv(prescriptions, usecols=["drug_type", *columns], dtype=str).fillna("")
    main = table[(table.drug_type == "MAIN") & (table.drug != "")]
    return main.value_counts(columns).rename("rows").reset_index()


def add_codes(drugs: pd.DataFrame, terminology: str | None) -> pd.DataFrame:
    """The drugs with their ATC codes in the package's table and in the public ones by each key alone; "" is unmapped.

    `listed` has all codes of the name in the public table, in the order of its rows.
    """
    package = DrugMap.from_package()
    drugs = drugs.assign(package=[package.atc(name) or "" for name in drugs.drug])
    if terminology is None:
        return drugs
    public = DrugMap.from_terminology(terminology)
    listed = defaultdict(list)
    for name, code in pd.read_csv(f"{terminology}/{NAME_TABLE}", dtype=str).dropna().itertuples(index=False):
        if len(code) >= 4:
            listed[name].append(code)
    names = [public.atc(name) or "" for name in drugs.drug]
    return drugs.assign(
        name=names,
        ndc=[public.atc(None, ndc) or "" for ndc in drugs.ndc],
        gsn=[public.atc(None, None, gsn) or "" for gsn in drugs.gsn],
        # A name that the table spells in another case has the one code found for it.
        listed=[listed.get(name, [code]) for name, code in zip(drugs.drug, names, strict=True)],
    )


def share(drugs: pd.DataFrame, holds: pd.Series) -> float:
    """The share of the rows of which something holds."""
    return float(drugs.rows[holds].sum() / drugs.rows.sum())


def same_class(drugs: pd.DataFrame, first: str, second: str) -> pd.Series:
    return drugs[first].str[:4] == drugs[second].str[:4]


def add_readings(drugs: pd.DataFrame, terminology: str) -> pd.DataFrame:
    """The drugs that both map by name, with whether they agree in each of the four readings."""
    both = drugs[(drugs.package != "") & (drugs.name != "")]
    substances = defaultdict(set)
    for code, name in pd.read_csv(f"{terminology}/{CLASS_TABLE}", dtype=str).dropna().itertuples(index=False):
        substances[code].add(name.lower())
    pairs = list(zip(both.package, both.listed, strict=True))
    any_row = [any(code[:4] == other[:4] for other in listed) for code, listed in pairs]
    substance = [any(substances[code] & substances[other] for other in listed) for code, listed in pairs]
    return both.assign(
        last_row=same_class(both, "package", "name"),
        first_row=[code[:4] == listed[0][:4] for code, listed in pairs],
        any_row=any_row,
        any_row_or_substance=[one or other for one, other in zip(any_row, substance, strict=True)],
    )


def measure_tables(drugs: pd.DataFrame, readings: pd.DataFrame) -> dict[str, float]:
    """Agreement in each reading, coverage by each public key, agreement of keys, and local use by systemic routes."""
    figures = {f"agreement_{name}": share(readings, readings[name]) for name in READINGS}
    figures |= {f"public_{key}_mapped_share": share(drugs, drugs[key] != "") for key in ("name", "ndc", "gsn")}
    for first, second in (("name", "ndc"), ("name", "gsn"), ("ndc", "gsn"), ("package", "ndc"), ("package", "gsn")):
        both = drugs[(drugs[first] != "") & (drugs[second] != "")]
        figures[f"{first}_{second}_agreement"] = share(both, same_class(both, first, second))
    systemic = drugs[drugs.route.isin(SYSTEMIC_ROUTES)]
    for key in ("package", "name", "ndc", "gsn"):
        mapped = systemic[systemic[key] != ""]
        figures[f"local_class_share_{key}"] = share(mapped, mapped[key].str.match(LOCAL_CLASS))
    return figures


def print_disagreements(readings: pd.DataFrame, num_names: int) -> None:
    """The names whose last row has another class, by rows, with the codes and what reconciles them."""
    apart = readings[~readings.last_row]
    why = apart.any_row_or_substance.map({True: "same substance", False: "-"}).mask(apart.any_row, "another row")
    listed = apart.listed.map(" ".join)
    counts = apart.assign(why=why, listed=listed).groupby(["drug", "package", "listed", "why"]).rows.sum()
    for (drug, package, codes, reason), count in counts.nlargest(num_names).items():
        print(f"disagree {count:>6}  {drug[:44]:44} package {package:8} public {codes:26} {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prescriptions")
    parser.add_argument("terminology", nargs="?")
    arguments = parser.parse_args()
    drugs = add_codes(read_drugs(arguments.prescriptions), arguments.terminology)
    figures = {"rows": int(drugs.rows.sum()), "mapped_share": share(drugs, drugs.package != "")}
    if arguments.terminology:
        readings = add_readings(drugs, arguments.terminology)
        figures |= measure_tables(drugs, readings)
        print_disagreements(readings, num_names=60)
    for drug, count in drugs[drugs.package == ""].groupby("drug").rows.sum().nlargest(20).items():
        print(f"unmapped {count:>6}  {drug}")
    for name, value in figures.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

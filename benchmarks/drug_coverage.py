"""How much of MIMIC-IV's prescriptions the package's drug map covers, and how far a terminology table agrees with it.

Usage: python benchmarks/drug_coverage.py PRESCRIPTIONS_CSV_GZ [TERMINOLOGY_DIRECTORY]
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import pyarrow.csv as pa_csv

from leader_platform.data.drugs import DrugMap, atc_class


def count_main_drugs(prescriptions: str) -> Counter[str]:
    """Prescription rows of drug type MAIN, by the drug's name as written."""
    options = pa_csv.ConvertOptions(include_columns=["drug_type", "drug"])
    table = pa_csv.read_csv(prescriptions, convert_options=options).to_pydict()
    pairs = zip(table["drug_type"], table["drug"], strict=True)
    return Counter(drug for drug_type, drug in pairs if drug_type == "MAIN" and drug)


def substances_by_code(terminology: str) -> dict[str, set[str]]:
    """Names of substances in `atc_coding.csv.gz`, by code; a code may bear several spellings."""
    names: dict[str, set[str]] = {}
    for row in pa_csv.read_csv(Path(terminology) / "atc_coding.csv.gz").to_pylist():
        names.setdefault(row["atc_code"], set()).add(str(row["atc_name"]).lower())
    return names


def measure_agreement(drugs: Counter[str], package: DrugMap, terminology: str) -> dict[str, float]:
    """Shares of the rows that both map: in one class for both, and in one class or of one substance for both.

    A terminology table made by name alone gives a substance any one of its codes (aspirin the dental one), so the
    first share says how far the two agree on use, the second how far they agree on what the drug is.
    """
    other = DrugMap.from_terminology(terminology)
    substances = substances_by_code(terminology)
    rows = same_class = same_substance = 0
    for drug, count in drugs.items():
        ours, theirs = package.atc(drug), other.atc(drug)
        if ours is None or theirs is None:
            continue
        one_class = atc_class(ours) == atc_class(theirs)
        one_substance = bool(substances.get(ours, set()) & substances.get(theirs, set()))
        rows += count
        same_class += count * one_class
        same_substance += count * (one_class or one_substance)
    return {
        "terminology_mapped_share": sum(n for drug, n in drugs.items() if other.atc(drug)) / drugs.total(),
        "third_level_agreement": same_class / rows,
        "class_or_substance_agreement": same_substance / rows,
    }


def measure(drugs: Counter[str], terminology: str | None) -> dict[str, float]:
    """All figures as shares (0 to 1) of prescription rows, and the number of rows."""
    package = DrugMap.from_package()
    mapped = sum(count for drug, count in drugs.items() if package.atc(drug))
    figures: dict[str, float] = {"rows": drugs.total(), "mapped_share": mapped / drugs.total()}
    return figures | (measure_agreement(drugs, package, terminology) if terminology else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prescriptions")
    parser.add_argument("terminology", nargs="?")
    arguments = parser.parse_args()
    drugs = count_main_drugs(arguments.prescriptions)
    package = DrugMap.from_package()
    unmapped = Counter({drug: count for drug, count in drugs.items() if package.atc(drug) is None})
    figures = measure(drugs, arguments.terminology)
    for name, value in figures.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    for drug, count in unmapped.most_common(20):
        print(f"unmapped {count:>6}  {drug}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""Drug names as MIMIC spells them, against codes written by hand; the tables' integrity; coverage of the demo."""

import gzip
import os
import pickle
import re
from collections import Counter
from pathlib import Path

import pyarrow.csv as pa_csv
import pytest

from leader_platform.data import drugs
from leader_platform.data.drugs import (
    DrugMap,
    atc_class,
    atc_class_names,
    class_names_from_terminology,
    normalise_drug_name,
)
from leader_platform.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DEMO = Path(os.environ.get("LEADER_MIMIC4_DEMO") or SHARED / "data" / "mimic-iv-demo")
TERMINOLOGY = Path(os.environ.get("LEADER_TERMINOLOGY") or SHARED / "terminology")
ATC_CODE = re.compile(r"[A-Z]\d\d[A-Z](?:[A-Z](?:\d\d)?)?")

SPELLINGS = {
    "OxyCODONE (Immediate Release) ": "N02AA05",
    "Oxycodone SR (OxyconTIN)": "N02AA05",
    "HYDROmorphone (Dilaudid)": "N02AA03",
    "Metoprolol Succinate XL": "C07AB02",
    "Insulin": "A10AB01",
    "HumaLOG": "A10AB04",
    "Insulin Glargine  (CVICU Protocol)": "A10AE04",
    "Potassium Chloride Replacement (Critical Care and Oncology) ": "A12BA01",
    "Potassium Chl 20 mEq / 1000 mL D5 1/2 NS": "B05BB02",
    "Sodium Chloride 0.9%  Flush": "B05XA03",
    "0.9% Sodium Chloride": "B05XA03",
    "23.4% Sodium Chloride": "B05XA03",
    "D5W": "B05BA03",
    "D5 1/2NS": "B05BB02",
    "LR": "B05BB01",
    "Syringe (0.9% Sodium Chloride)": "B05XA03",
    "Heparin Flush (10 units/ml)": "B01AB01",
    "Acetaminophen IV": "N02BE01",
    "Aspirin EC": "B01AC06",
    "Oxycodone-Acetaminophen (5mg-325mg)": "N02AJ17",
    "OxyCODONE--Acetaminophen (5mg-325mg)": "N02AJ17",
    "Sulfameth/Trimethoprim DS": "J01EE01",
    "Piperacillin-Tazobactam": "J01CR05",
    "Amoxicillin-Clavulanic Acid": "J01CR02",
    "Vancomycin": "J01XA01",
    "Vancomycin Oral Liquid": "A07AA09",
    "*NF* Ertapenem Sodium": "J01DH03",
    "MetRONIDAZOLE (FLagyl)": "J01XD01",
    "SulfaSALAzine_": "A07EC01",
    "Timolol Maleate 0.5% Ophth. Soln": "S01ED01",
    "Dorzolamide 2%/Timolol 0.5% Ophth.": "S01ED51",
    "PrednisoLONE Acetate 1% Ophth. Susp.": "S01BA04",
    "Erythromycin 0.5% Ophth Oint": "S01AA17",
    "Fluticasone Propionate NASAL": "R01AD08",
    "Fluticasone-Salmeterol Diskus (250/50) ": "R03AK06",
    "Mupirocin Nasal Ointment 2%": "R01AX06",
    "Triamcinolone Acetonide 0.1% Cream": "D07AB09",
    "Lidocaine 5% Patch": "D04AB01",
    "Lidocaine 1% (For PICC/Midline Insertions)": "N01BB02",
    "Acetylcysteine (IV)": "V03AB23",
    "Acetylcysteine 20%": "R05CB01",
    "Hydrocortisone Na Succ.": "H02AB09",
    "MethylPREDNISolone Sodium Succ": "H02AB04",
    "Divalproex Sod. Sprinkles": "N03AG01",
    "quiniDINE Gluconate E.R.": "C01BA01",
    "Lenalidomide (Revlimide)15mg ": "L04AX04",
    "Epinephrine 1:1000": "C01CA24",
    "Prismasate (B32 K2)": "B05ZB",
    "Neutra-Phos": "A12CX",
    "PNEUMOcoccal 23-valent polysaccharide vaccine": "J07AL01",
    "PHENObarbital - ICU Alcohol Withdrawal (Loading Dose 1) ": "N03AA02",
    "Emtricitabine-Tenofovir (Truvada)": "J05AR03",
    "Albumin 25% (12.5g / 50mL)": "B05AA01",
    "Insulin 70/30": "A10AD01",
    "Vitamin B-12": "B03BA01",
}

NORMAL_FORMS = {
    "OxycoDONE (Immediate Release) ": "oxycodone",
    "Sodium Phosphate": "sodium phosphate",
    "Dexamethasone Sodium Phosphate": "dexamethasone",
    "Dextrose 5%-Sodium Chloride 0.45%": "dextrose sodium chloride",
    "Ampicillin Desensitization": "ampicillin",
    "Ciprofloxacin 0.3% Ophth Soln": "ciprofloxacin ophthalmic",
    "Albuterol 0.083% Neb Soln": "albuterol inhaled",
    "ACETAMINOPHEN 325 mg/10.15 mL": "acetaminophen",
    "Prednisolon\u00e9": "prednisolone",
    "": "",
    "10 mg": "",
}


@pytest.fixture(scope="module")
def package() -> DrugMap:
    return DrugMap.from_package()


def write_table(directory: Path, name: str, text: str) -> None:
    with gzip.open(directory / name, "wt") as stream:
        stream.write(text)


@pytest.mark.parametrize(("drug", "code"), SPELLINGS.items())
def test_atc_of_spelling(package: DrugMap, drug: str, code: str) -> None:
    assert package.atc(drug) == code


@pytest.mark.parametrize(("drug", "normal"), NORMAL_FORMS.items())
def test_normal_form(drug: str, normal: str) -> None:
    assert normalise_drug_name(drug) == normal


@pytest.mark.parametrize(
    "drug",
    ["", "Bag", "adde", "Neomycin-Unheardof", "aspirin with metoprolol", "Unheardof (with albumin)"],
)
def test_unknown_names_and_unknown_combinations_stay_unmapped(package: DrugMap, drug: str) -> None:
    assert package.atc(drug) is None


def test_map_pickles(package: DrugMap) -> None:
    restored = pickle.loads(pickle.dumps(package))
    assert restored == package
    assert restored.source == "package"


def test_substances_are_well_formed() -> None:
    rows = drugs._package_rows("substances.csv", ("name", "atc"))
    names = [name for name, _ in rows]
    classes = atc_class_names()
    assert sum(len(code) == 7 for _, code in rows) >= 550
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z0-9 .-]+", name)] == []
    assert [code for _, code in rows if not ATC_CODE.fullmatch(code)] == []
    assert [code for _, code in rows if atc_class(code) not in classes] == []


def test_substances_have_one_key_each() -> None:
    codes_of: dict[str, set[str]] = {}
    for name, code in drugs._package_rows("substances.csv", ("name", "atc")):
        codes_of.setdefault(drugs._key(normalise_drug_name(name).split()), set()).add(code)
    assert {key: codes for key, codes in codes_of.items() if len(codes) > 1 or not key} == {}


def test_every_substance_resolves_to_its_own_code(package: DrugMap) -> None:
    rows = drugs._package_rows("substances.csv", ("name", "atc"))
    assert [(name, code, package.atc(name)) for name, code in rows if package.atc(name) != code] == []


def test_every_brand_resolves_to_its_substance(package: DrugMap) -> None:
    substances = dict(drugs._package_rows("substances.csv", ("name", "atc")))
    brands = drugs._package_rows("brand_names.csv", ("brand", "substance"))
    assert [brand for brand, count in Counter(brand for brand, _ in brands).items() if count > 1] == []
    assert [name for _, name in brands if name not in substances] == []
    assert [(brand, package.atc(brand)) for brand, name in brands if package.atc(brand) != substances[name]] == []


def test_class_names_are_well_formed() -> None:
    rows = drugs._package_rows("atc_classes.csv", ("code", "name"))
    assert len(rows) == len(dict(rows)) >= 200
    assert [code for code, _ in rows if not re.fullmatch(r"[A-Z]\d\d[A-Z]", code)] == []
    assert [name for _, name in rows if not name[0].isupper() or name.isupper()] == []


def test_atc_class() -> None:
    assert atc_class("C07AB02") == "C07A"
    with pytest.raises(AssertionError):
        atc_class("C07")


def test_terminology_replaces_the_package(tmp_path: Path) -> None:
    text = 'drug,atc_code\nOdd  Name ,n02be01\nodd name,A01AA01\n"Zinc, oral",A12C\nToo Coarse,A12\nNothing,\n'
    write_table(tmp_path, "mimic_drug_to_atc.csv.gz", text)
    drug_map = DrugMap.from_terminology(str(tmp_path))
    assert drug_map.source == str(tmp_path)
    assert drug_map.atc("Odd  Name ") == "N02BE01"  # as it is spelt
    assert drug_map.atc(" ODD name") == "A01AA01"  # the last row of that name
    assert drug_map.atc("zinc, ORAL") == "A12C"
    assert [drug_map.atc(name) for name in ("Too Coarse", "Nothing", "Aspirin", "odd-name")] == [None] * 4


def test_class_names_of_terminology(tmp_path: Path) -> None:
    write_table(tmp_path, "atc_coding.csv.gz", "atc_code,atc_name\nA,x\nA02A,antacids\nA02A,other\nA02AA,y\n")
    assert class_names_from_terminology(str(tmp_path)) == {"A02A": "Antacids"}


@pytest.mark.parametrize("content", [None, b"not gzip at all", gzip.compress(b""), gzip.compress(b"drug,code\na,b\n")])
def test_unusable_terminology_names_the_path_and_the_way_out(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mimic_drug_to_atc.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"mimic_drug_to_atc\.csv\.gz.*package's own table") as raised:
        DrugMap.from_terminology(str(tmp_path))
    assert str(path) in str(raised.value)


@pytest.fixture(scope="module")
def main_drugs() -> Counter[str]:
    path = DEMO / "hosp" / "prescriptions.csv.gz"
    if not path.exists():
        pytest.skip("the MIMIC-IV demo is absent; LEADER_MIMIC4_DEMO names its directory")
    options = pa_csv.ConvertOptions(include_columns=["drug_type", "drug"])
    table = pa_csv.read_csv(path, convert_options=options).to_pylist()
    return Counter(row["drug"] for row in table if row["drug_type"] == "MAIN")


def test_demo_rows_map(package: DrugMap, main_drugs: Counter[str]) -> None:
    mapped = sum(count for drug, count in main_drugs.items() if package.atc(drug))
    assert mapped / main_drugs.total() >= 0.99


def test_demo_agrees_with_the_terminology(package: DrugMap, main_drugs: Counter[str]) -> None:
    """Same class, or two codes of one substance.

    The public table gives a name any of its substance's codes, whatever the route (heparin S01XA14, for the eye;
    diltiazem C05AE03, for fissures), so the class by itself agrees on fewer rows; that share is asserted as a floor.
    """
    if not (TERMINOLOGY / "mimic_drug_to_atc.csv.gz").exists():
        pytest.skip("the terminology tables are absent; LEADER_TERMINOLOGY names their directory")
    other = DrugMap.from_terminology(str(TERMINOLOGY))
    substances: dict[str, set[str]] = {}
    for row in pa_csv.read_csv(TERMINOLOGY / "atc_coding.csv.gz").to_pylist():
        substances.setdefault(row["atc_code"], set()).add(str(row["atc_name"]).lower())
    rows: Counter[str] = Counter()
    for drug, count in main_drugs.items():
        ours, theirs = package.atc(drug), other.atc(drug)
        if ours and theirs:
            one_class = atc_class(ours) == atc_class(theirs)
            one_substance = bool(substances.get(ours, set()) & substances.get(theirs, set()))
            rows.update(both=count, one_class=count * one_class, agree=count * (one_class or one_substance))
    assert rows["agree"] / rows["both"] >= 0.93
    assert rows["one_class"] / rows["both"] >= 0.73

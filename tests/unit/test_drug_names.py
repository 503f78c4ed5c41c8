"""Drug names as MIMIC spells them, against codes written by hand; the integrity of the package's tables of names."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data import drugs
from leader_platform.data.drug_names import name_key, normalise_drug_name
from leader_platform.data.drugs import DrugMap, atc_class, atc_class_names

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
    "Vancomycin in 0.9% Sodium Chloride": "J01XA01",
    "Heparin in 0.45% Sodium Chloride": "B01AB01",
    "Norepinephrine in D5W": "C01CA03",
    "Furosemide in 0.9% Sodium Chloride": "C03CA01",
    "Oxytocin in Lactated Ringers": "H01BB02",
    "Dextrose 5% in Sodium Chloride 0.45%": "B05BB02",
    "Lantus U-100 Insulin": "A10AE04",
    "HumaLOG Insulin": "A10AB04",
    "Tuberculin PPD": "V04CF01",
    "Zithromax Z-Pak": "J01FA10",
    "Promethazine-Codeine": "R05FA",
    "Latanoprost 0.005% Ophth. Soln.": "S01EE01",
    "Neomycin-Polymyxin-Bacitracin Ophth. Oint": "S01AA30",
    "Ocuvite Eye Health": "A11AA03",
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


@pytest.mark.parametrize(("drug", "code"), SPELLINGS.items())
def test_atc_of_spelling(package: DrugMap, drug: str, code: str) -> None:
    assert package.atc(drug) == code


@pytest.mark.parametrize(("drug", "normal"), NORMAL_FORMS.items())
def test_normal_form(drug: str, normal: str) -> None:
    assert normalise_drug_name(drug) == normal


@pytest.mark.parametrize(
    "drug",
    [
        *("", "Bag", "adde", "Neomycin-Unheardof", "aspirin with metoprolol", "Unheardof (with albumin)"),
        "Sodium Chloride 0.9% with heparin",
    ],
)
def test_unknown_names_and_unknown_combinations_stay_unmapped(package: DrugMap, drug: str) -> None:
    assert package.atc(drug) is None


@pytest.mark.parametrize(
    "drug",
    [
        "Voriconazole 1% Ophth. Soln",
        "Voriconazole Ophth (VFEND)",
        "Vancomycin 25mg/mL Ear Drops",
        "Amphotericin B Ophth Soln 0.1%",
    ],
)
def test_a_drug_for_the_eye_or_ear_is_not_taken_for_the_one_that_is_swallowed(package: DrugMap, drug: str) -> None:
    assert package.atc(drug) is None


def test_substances_are_well_formed() -> None:
    rows = drugs._package_rows("substances.csv", "name", "atc")
    names = [name for name, _ in rows]
    classes = atc_class_names()
    assert sum(len(code) == 7 for _, code in rows) >= 550
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z0-9 .-]+", name)] == []
    assert [code for _, code in rows if not ATC_CODE.fullmatch(code)] == []
    assert [code for _, code in rows if atc_class(code) not in classes] == []


def test_substances_have_one_key_each() -> None:
    codes_of: dict[str, set[str]] = {}
    for name, code in drugs._package_rows("substances.csv", "name", "atc"):
        codes_of.setdefault(name_key(name), set()).add(code)
    assert {key: codes for key, codes in codes_of.items() if len(codes) > 1 or not key} == {}


def test_every_substance_resolves_to_its_own_code(package: DrugMap) -> None:
    rows = drugs._package_rows("substances.csv", "name", "atc")
    assert [(name, code, package.atc(name)) for name, code in rows if package.atc(name) != code] == []


def test_every_brand_resolves_to_its_substance(package: DrugMap) -> None:
    substances = dict(drugs._package_rows("substances.csv", "name", "atc"))
    brands = drugs._package_rows("brand_names.csv", "brand", "substance")
    assert [brand for brand, count in Counter(brand for brand, _ in brands).items() if count > 1] == []
    assert [name for _, name in brands if name not in substances] == []
    assert [(brand, package.atc(brand)) for brand, name in brands if package.atc(brand) != substances[name]] == []


@given(st.text(st.characters(codec="ascii")))
def test_a_normal_drug_name_is_plain_words_whatever_the_case(name: str) -> None:
    normal = normalise_drug_name(name)
    assert re.fullmatch(r"(?:[a-z0-9]+(?: [a-z0-9]+)*)?", normal)
    assert normalise_drug_name(f" {name.swapcase()} ") == normal


@given(st.text())
def test_any_text_may_stand_for_a_drug(package: DrugMap, text: str) -> None:
    assert ATC_CODE.fullmatch(package.atc(text, text, text) or "A01A")


def test_a_huge_drug_name_costs_no_more_than_a_long_one(package: DrugMap) -> None:
    assert package.atc(" ".join(f"word{number}" for number in range(100_000))) is None

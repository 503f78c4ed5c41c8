"""Drugs by name, NDC and GSN, in their order of trust; tables that cannot be used; coverage of the demo."""

import gzip
import os
import pickle
import re
from collections import Counter
from pathlib import Path

import pyarrow.csv as pa_csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader_platform.data import drugs
from leader_platform.data.drugs import (
    DrugMap,
    Mapping,
    atc_class,
    class_names_from_terminology,
    normalise_gsn,
    normalise_ndc,
)
from leader_platform.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DEMO = Path(os.environ.get("LEADER_MIMIC4_DEMO") or SHARED / "data" / "mimic-iv-demo")
TERMINOLOGY = Path(os.environ.get("LEADER_TERMINOLOGY") or SHARED / "terminology")


@pytest.fixture(scope="module")
def package() -> DrugMap:
    return DrugMap.from_package()


def write_table(directory: Path, name: str, text: str) -> None:
    with gzip.open(directory / name, "wt") as stream:
        stream.write(text)


def test_map_pickles(package: DrugMap) -> None:
    restored = pickle.loads(pickle.dumps(package))
    assert restored == package
    assert restored.source == "package"


def test_class_names_are_well_formed() -> None:
    rows = drugs._package_rows("atc_classes.csv", "code", "name")
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
    assert [drug_map.atc(name) for name in ("Too Coarse", "Nothing", "Aspirin", "odd-name", "", None)] == [None] * 6


NUMBERS = """gsn,atc,ndc
000016,C01AA05,24208036067
000017,C01AA05,24208036067
4489,N02BE01,904198261
004490,N02BA01,?
004491,N02B,904198273
004492,N02BE01,904198274
004492,N02BA01,0
004493,N02BE01,904198275
004493,A01AD05,904198275
004494,A01,904198276
"""


@pytest.fixture
def numbered(tmp_path: Path) -> DrugMap:
    """A map of numbers, and of one name."""
    write_table(tmp_path, "gsn_atc_ndc_mapping.csv.gz", NUMBERS)
    write_table(tmp_path, "mimic_drug_to_atc.csv.gz", "drug,atc_code\nAspirin,B01AC06\n")
    return DrugMap.from_terminology(str(tmp_path))


@pytest.mark.parametrize(
    ("drug", "ndc", "gsn", "found"),
    [
        ("Aspirin", "00904198261", "000016", Mapping("B01AC06", "name")),
        ("Unheardof", "00904198261", "000016", Mapping("N02BE01", "ndc")),
        (None, " 904198261 ", None, Mapping("N02BE01", "ndc")),
        (None, "24208036067", None, Mapping("C01AA05", "ndc")),  # a sample product of two formulations
        ("Unheardof", "0", "000016", Mapping("C01AA05", "gsn")),
        ("", "", "16", Mapping("C01AA05", "gsn")),
        (None, None, "004489", Mapping("N02BE01", "gsn")),
        (None, None, "004491", Mapping("N02B", "gsn")),
        (None, None, "004492", Mapping("N02B", "gsn")),  # two substances of one class
        (None, None, "004489 004490 ", Mapping("N02B", "gsn")),
        (None, None, "004489 999999", Mapping("N02BE01", "gsn")),
        (None, None, "004489 000016", None),  # two classes
        (None, "904198275", "004493", None),
        (None, "904198276", "004494", None),  # coarser than a class
        (None, None, None, None),
        ("Unheardof", "0", "0", None),
    ],
)
def test_the_name_is_trusted_before_the_ndc_and_the_ndc_before_the_gsn(
    numbered: DrugMap, drug: str | None, ndc: str | None, gsn: str | None, found: Mapping | None
) -> None:
    assert numbered.lookup(drug, ndc, gsn) == found
    assert numbered.atc(drug, ndc, gsn) == (found.code if found else None)


def test_a_table_of_numbers_alone_is_a_terminology(tmp_path: Path) -> None:
    write_table(tmp_path, "gsn_atc_ndc_mapping.csv.gz", NUMBERS)
    drug_map = DrugMap.from_terminology(str(tmp_path))
    assert drug_map.lookup("Aspirin", None, "000016") == Mapping("C01AA05", "gsn")
    assert drug_map.lookup("Aspirin") is None


def test_the_package_knows_names_alone(package: DrugMap) -> None:
    assert package.lookup("Digoxin", "24208036067", "000016") == Mapping("C01AA05", "name")
    assert package.lookup(None, "24208036067", "000016") is None


@given(st.integers(1, 10**11 - 1), st.sampled_from(["", " ", "\t"]))
def test_an_ndc_survives_being_read_as_a_number(number: int, blank: str) -> None:
    ndc = f"{number:011d}"
    assert normalise_ndc(ndc) == normalise_ndc(f"{blank}{number}{blank}") == normalise_ndc(f"00{ndc}") == ndc


@given(st.integers(1, 10**6 - 1))
def test_a_gsn_survives_being_read_as_a_number(number: int) -> None:
    assert normalise_gsn(str(number)) == normalise_gsn(f"{number:06d}") == f"{number:06d}"


@given(st.text() | st.from_regex(r"\A\s?[0-9]{0,14}\s?\Z"))
def test_what_is_no_number_is_none_and_what_is_normal_stays(text: str) -> None:
    for normalise, num_digits in ((normalise_ndc, 11), (normalise_gsn, 6)):
        normal = normalise(text)
        assert re.fullmatch(rf"(?!0+\Z)[0-9]{{{num_digits}}}", normal) or normal == ""
        assert normalise(normal) == normal
        assert bool(normal) == (re.fullmatch(rf"0*[1-9][0-9]{{0,{num_digits - 1}}}", text.strip()) is not None)


@pytest.mark.parametrize("ndc", ["", "0", "00000000000", "123456789012", "0002-8215-01", "2821501.0", "\u0663", "?"])
def test_what_names_no_product(ndc: str) -> None:
    assert normalise_ndc(ndc) == ""


def test_class_names_of_terminology(tmp_path: Path) -> None:
    write_table(tmp_path, "atc_coding.csv.gz", "atc_code,atc_name\nA,x\nA02A,antacids\nA02A,other\nA02AA,y\n")
    assert class_names_from_terminology(str(tmp_path)) == {"A02A": "Antacids"}


def test_a_terminology_needs_no_names_of_classes(tmp_path: Path) -> None:
    assert class_names_from_terminology(str(tmp_path)) == {}


@pytest.mark.parametrize("table", ["mimic_drug_to_atc.csv.gz", "gsn_atc_ndc_mapping.csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        b"not gzip at all",
        gzip.compress(b""),
        gzip.compress(b"drug,code\na,b\n"),
        gzip.compress(NUMBERS.encode())[:-20],
        gzip.compress(b"drug,atc_code,gsn,ndc,atc\n\xff,N02BE01,\xff,\xff,N02BE01\n"),
    ],
)
def test_unusable_terminology_names_the_path_and_the_way_out(tmp_path: Path, table: str, content: bytes) -> None:
    path = tmp_path / table
    path.write_bytes(content)
    with pytest.raises(UserError, match="package's own table") as raised:
        DrugMap.from_terminology(str(tmp_path))
    assert str(path) in str(raised.value)


def test_a_terminology_without_drugs_names_the_tables_wanted(tmp_path: Path) -> None:
    write_table(tmp_path, "atc_coding.csv.gz", "atc_code,atc_name\nA02A,antacids\n")
    with pytest.raises(UserError, match=r"neither mimic_drug_to_atc\.csv\.gz nor gsn_atc_ndc_mapping\.csv\.gz") as told:
        DrugMap.from_terminology(str(tmp_path))
    assert str(tmp_path) in str(told.value)


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
    assert mapped / main_drugs.total() >= 0.999


def test_the_terminology_gives_the_demo_its_reference_classes(main_drugs: Counter[str]) -> None:
    """How far the package's own classes agree with them, `benchmarks/drug_coverage.py` measures."""
    if not (TERMINOLOGY / "mimic_drug_to_atc.csv.gz").exists():
        pytest.skip("the terminology tables are absent; LEADER_TERMINOLOGY names their directory")
    public = DrugMap.from_terminology(str(TERMINOLOGY))
    assert len({atc_class(code) for drug in main_drugs if (code := public.atc(drug))}) == 140

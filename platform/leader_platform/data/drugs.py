"""Drugs mapped to ATC codes by name, NDC and GSN, with the package's own table or a directory of terminology.

The first of these keys that is known decides, in order of trust:

1. **name**, as the hospital spells it;
2. **NDC**, one packaged product;
3. **GSN**, one formulation: ingredients, strength, form and route.

A number names one class, where many names stand for several. The name goes first all the same, since the reference
counts of the MIMIC-IV demo are made by name; `docs/DATA.md` has the figures. The package's table knows names alone. A
directory of terminology replaces it and never adds to it, so that all codes of a data set have one source.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv

from leader_platform import storage
from leader_platform.data.drug_names import code_by_name, fold_case, name_key
from leader_platform.errors import UserError

PACKAGE_SOURCE = "package"
NAME_TABLE = "mimic_drug_to_atc.csv.gz"
NUMBER_TABLE = "gsn_atc_ndc_mapping.csv.gz"
CLASS_TABLE = "atc_coding.csv.gz"

_WAY_OUT = "give a terminology directory that holds it, or none to use the package's own table"
_DIGITS = re.compile(r"[0-9]+")


class Mapping(NamedTuple):
    """An ATC code, and by which key it was found: `"name"`, `"ndc"` or `"gsn"`."""

    code: str
    by: str


def normalise_ndc(text: str) -> str:
    """The eleven digits of a National Drug Code, with the leading zeros that reading it as a number loses.

    Empty if it names no product: `""`, `"0"`, more than eleven digits, or anything but digits.
    """
    return _number(text, num_digits=11)


def normalise_gsn(text: str) -> str:
    """The six digits of one Generic Sequence Number, by the rules of `normalise_ndc`."""
    return _number(text, num_digits=6)


def _number(text: str, num_digits: int) -> str:
    digits = text.strip()
    if not _DIGITS.fullmatch(digits) or len(digits.lstrip("0")) not in range(1, num_digits + 1):
        return ""
    return digits.lstrip("0").zfill(num_digits)


def atc_class(code: str) -> str:
    """The third-level ATC class (four characters) of an ATC code of at least that length."""
    assert len(code) >= 4, f"{code!r} is coarser than the third ATC level"
    return code[:4].upper()


def atc_class_names() -> dict[str, str]:
    """English names of all third-level ATC classes, by four-character code, from the package's table."""
    return dict(_package_rows("atc_classes.csv", "code", "name"))


def package_substance_names() -> dict[str, str]:
    """Names of substances by ATC code, from the package's table; of several names the first."""
    names: dict[str, str] = {}
    for name, code in _package_rows("substances.csv", "name", "atc"):
        names.setdefault(code, name)
    return names


def class_names_from_terminology(directory: str) -> dict[str, str]:
    """Names of the third-level ATC classes in `atc_coding.csv.gz` of a terminology directory, in sentence case; empty
    if it has no such table.

    Where the table repeats a code, its first name holds. Raises UserError if the table is unreadable.
    """
    names: dict[str, str] = {}
    for code, name in _terminology_rows(directory, CLASS_TABLE, "atc_code", "atc_name"):
        if len(code) == 4:
            names.setdefault(code.upper(), name[:1].upper() + name[1:])
    return names


@dataclass(frozen=True)
class DrugMap:
    """Looks up ATC codes; plain data, so it pickles and travels to workers cheaply.

    `source` says where the codes come from: `"package"` or the terminology directory. With `exact`, a name matches as
    it is spelt, else but for case and white space; without, by the rules of `drug_names`.
    """

    source: str
    names: dict[str, str] = field(repr=False, hash=False)
    ndcs: dict[str, str] = field(repr=False, hash=False)
    gsns: dict[str, str] = field(repr=False, hash=False)
    exact: bool

    @classmethod
    def from_package(cls) -> "DrugMap":
        """The map of the package's own tables of substances and brand names."""
        substances = dict(_package_rows("substances.csv", "name", "atc"))
        brands = _package_rows("brand_names.csv", "brand", "substance")
        names = {name_key(brand): substances[name] for brand, name in brands}
        names |= {name_key(name): code for name, code in substances.items()}
        return cls(source=PACKAGE_SOURCE, names=names, ndcs={}, gsns={}, exact=False)

    @classmethod
    def from_terminology(cls, directory: str) -> "DrugMap":
        """The map of `mimic_drug_to_atc.csv.gz` (drug, atc_code) and `gsn_atc_ndc_mapping.csv.gz` (gsn, atc, ndc), one
        of which a directory may lack.

        Codes coarser than the third level are left out. Where the table of names repeats one, its last row holds; an
        NDC or GSN with several codes stands for what they share. Raises UserError if both tables are missing, or one
        is unreadable or lacks a column.
        """
        if not any(storage.exists(storage.join(directory, name)) for name in (NAME_TABLE, NUMBER_TABLE)):
            raise UserError(
                f"The terminology directory {directory} holds neither {NAME_TABLE} nor {NUMBER_TABLE}; "
                "give one that holds a table of drugs, or none to use the package's own table."
            )
        rows = _coded(_terminology_rows(directory, NAME_TABLE, "drug", "atc_code"))
        return cls(
            source=directory,
            names={fold_case(drug): code for drug, code in rows} | dict(rows),
            ndcs=_codes_by_number(_terminology_rows(directory, NUMBER_TABLE, "ndc", "atc"), normalise_ndc),
            gsns=_codes_by_number(_terminology_rows(directory, NUMBER_TABLE, "gsn", "atc"), normalise_gsn),
            exact=True,
        )

    def atc(self, drug: str | None, ndc: str | None = None, gsn: str | None = None) -> str | None:
        """The finest ATC code known for a drug (seven characters, seldom four or five), or None."""
        found = self.lookup(drug, ndc, gsn)
        return found.code if found else None

    def lookup(self, drug: str | None, ndc: str | None = None, gsn: str | None = None) -> Mapping | None:
        """The finest ATC code known for a drug and the key that gave it, in the order of trust, or None.

        `gsn` may hold several numbers with blanks between them; then they stand for what their codes share.
        """
        if drug and (by_name := self._code_by_name(drug)):
            return Mapping(by_name, "name")
        if by_ndc := self.ndcs.get(normalise_ndc(ndc or "")):
            return Mapping(by_ndc, "ndc")
        numbers = map(normalise_gsn, (gsn or "").split())
        by_gsn = _shared({self.gsns[number] for number in numbers if number in self.gsns})
        return Mapping(by_gsn, "gsn") if by_gsn else None

    def _code_by_name(self, drug: str) -> str | None:
        if self.exact:
            return self.names.get(drug) or self.names.get(fold_case(drug))
        return code_by_name(self.names, drug)


def _codes_by_number(rows: Iterable[tuple[str, str]], normalise: Callable[[str], str]) -> dict[str, str]:
    codes_of: dict[str, set[str]] = {}
    for number, code in _coded(rows):
        codes_of.setdefault(normalise(number), set()).add(code)
    return {number: shared for number, codes in codes_of.items() if number and (shared := _shared(codes))}


def _shared(codes: set[str]) -> str | None:
    """The one code, else the one third-level class, else None."""
    if len(codes) == 1:
        return min(codes)
    classes = {atc_class(code) for code in codes}
    if len(classes) == 1:
        return min(classes)
    return None


def _coded(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(key, code.upper()) for key, code in rows if len(code) >= 4]


def _package_rows(file_name: str, first: str, second: str) -> list[tuple[str, str]]:
    with resources.files("leader_platform.data").joinpath("tables", file_name).open("rb") as stream:
        return _pairs(pa_csv.read_csv(stream), first, second)


def _terminology_rows(directory: str, file_name: str, first: str, second: str) -> list[tuple[str, str]]:
    """Two columns of a table, without the rows that lack a value; empty if the directory has no such table."""
    uri = storage.join(directory, file_name)
    if not storage.exists(uri):
        return []
    file_system, path = storage.filesystem(uri)
    # Every column is text: a table whose codes all look like numbers or dates must not be read as such.
    columns = {first: pa.string(), second: pa.string()}
    options = pa_csv.ConvertOptions(include_columns=list(columns), column_types=columns, strings_can_be_null=True)
    try:
        with file_system.open_input_stream(path) as stream:
            return _pairs(pa_csv.read_csv(stream, convert_options=options), first, second)
    except KeyError:
        raise UserError(f"The terminology table {uri} lacks the column {first} or {second}; {_WAY_OUT}.") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"The terminology table {uri} is unreadable; {_WAY_OUT}.") from error


def _pairs(table: pa.Table, first: str, second: str) -> list[tuple[str, str]]:
    columns = (table.column(name).to_pylist() for name in (first, second))
    return [(left, right.strip()) for left, right in zip(*columns, strict=True) if left and right]

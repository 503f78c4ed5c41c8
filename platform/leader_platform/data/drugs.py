"""Drug names as hospitals spell them, mapped to ATC codes by the package's own table or by a directory of terminology.

The package's tables follow the current ATC index (gabapentinoids under N02B, monoclonal antibodies under L01F).
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from leader_platform.errors import UserError

PACKAGE_SOURCE = "package"

# Route words in the order in which a drug with several of them is looked up: the eye ointment is an eye drug first.
_ROUTES: dict[str, tuple[str, ...]] = {
    "ophthalmic": ("ophth", "ophthalmic", "eye", "opth"),
    "otic": ("otic", "ear"),
    "nasal": ("nasal", "intranasal", "nostril"),
    "throat": ("throat", "lozenge", "lozenges"),
    "vaginal": ("vag", "vaginal"),
    "rectal": ("rectal", "enema", "supp", "supps", "suppository", "pr"),
    "inhaled": ("neb", "nebs", "nebulizer", "inhaler", "inhalation", "inhaled", "mdi", "hfa", "diskus", "inh"),
    "oral": ("oral", "po", "rinse", "mouthwash"),
    "intravenous": ("iv", "intravenous", "injection", "inj", "ivpb"),
    "transdermal": ("patch", "transdermal"),
    "topical": ("topical", "cream", "ointment", "oint", "lotion", "gel", "shampoo", "dermal"),
}
_ROUTE_OF = {word: route for route, words in _ROUTES.items() for word in words}

_CATION_WORDS = (
    "sodium potassium calcium magnesium zinc ferrous ferric ammonium aluminum lithium silver bismuth barium "
    "cupric selenium iron"
)
_CATIONS = frozenset(_CATION_WORDS.split())
_ANIONS_OF_FLUIDS = frozenset({"chloride", "bicarbonate", "carbonate", "hydroxide"})
_SALT_WORDS = (
    "acetate acetonide axetil besylate bitartrate bromide calcium carbonate chloride citrate cypionate dipropionate "
    "disodium disoproxil enanthate etexilate fosamil fumarate furoate gluconate glucuronate hcl hippurate hydrobromide "
    "hydrochloride hyclate lactate lactobionate magnesium malate maleate medoxomil mesylate mofetil na nitrate oxalate "
    "pamoate phosphate polacrilex potassium propionate proxetil salicylate sod sodium succ succinate sulf sulfate "
    "tartrate tosylate tromethamine valerate xinafoate"
)
_SALTS = frozenset(_SALT_WORDS.split())
_FORM_WORDS = (
    "and with w for nf inv tab tabs tablet tablets cap caps capsule capsules soln solution sol susp suspension liquid "
    "elixir syrup drops drop powder packet chewable chew disintegrating rapid dissolve odt wafer granules film "
    "extended immediate delayed sustained controlled release released ext rel xl xr er sr cr dr la ec ir cd sa hp ds "
    "ss sl sublingual pca pf preserv preservative free sugar sprinkles sprinkle infatab infusion drip vial syringe bag "
    "soaked protocol desensitization replacement buffered strength mg mcg ml gm meq units unit u once daily human "
    "enteric coated premix spray kit nebulization dental singles fiber disintegr"
)
_FORMS = frozenset(_FORM_WORDS.split())
_STRENGTH = re.compile(
    r"(?<![a-z0-9.])\d[\d,.]*(?:\s*[/:x-]\s*\d[\d,.]*)*\s*"
    r"(?:%|(?:mg|mcg|ml|gm|g|meq|mmol|units?|unt|mm|kg|hr|hrs|l|million|in)(?![a-z]))?"
    r"(?:\s*(?:/|per)\s*(?:[\d.]+\s*)?(?:mg|mcg|ml|gm|g|meq|hr|hrs|l|dose|actuation|spray)(?![a-z]))?(?![a-z0-9])"
)
_MIXED_INSULIN = re.compile(r"(?<!\d)(?:70|75|50)\s*[/-]\s*(?:30|25|50)(?!\d)")
_JOINER = "+"
_JOINED = re.compile(r"(?<=[a-z0-9])(?:-+|\s*[/&+]\s*|\s+-(?=[a-z]))(?=[a-z])")
_NOT_A_NAME = re.compile(r"\s*(?:with|w/|without|in|for|from)(?![a-z])")
_BRACKETS = re.compile(r"\(([^()]*)\)?|\[([^\[\]]*)\]?")


def _fold(name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    joined = re.sub(r"(?<![a-z])([a-z])[-. ](\d+)(?![\d.,%])", r"\1\2", ascii_name)
    return re.sub(r"(?<![a-z])([a-z])\.([a-z])\.(?:([a-z])\.)?", r"\1\2\3", joined).replace("'", "")


def _words(text: str) -> list[str]:
    # The half- and quarter-strength salines are the same fluid for this purpose, and the fraction is not a ratio.
    text = re.sub(r"\b[13]/[24]\s*ns", " ns", text)
    if "/" in text or "-" in text:
        text = _MIXED_INSULIN.sub(" mix ", text)
    bare = re.sub(r"\s+", " ", _STRENGTH.sub(" ", text)).strip()
    return re.findall(r"[a-z0-9]+|\+", _JOINED.sub(f" {_JOINER} ", bare))


def _is_salt(words: list[str], position: int) -> bool:
    word = words[position]
    if position == 0 or words[0] in _CATIONS or word not in _SALTS:
        return False
    following = words[position + 1] if position + 1 < len(words) else ""
    return not (
        (word in _CATIONS and following in _ANIONS_OF_FLUIDS)
        or (word in _ANIONS_OF_FLUIDS and words[position - 1] in _CATIONS)
    )


def _split_routes(words: list[str]) -> tuple[list[str], list[str]]:
    found = {_ROUTE_OF[word] for word in words if word in _ROUTE_OF}
    return [word for word in words if word not in _ROUTE_OF], [route for route in _ROUTES if route in found]


def _parts(name: str) -> tuple[list[str], list[str]]:
    folded = _fold(name)
    outside = _words(_BRACKETS.sub(" ", folded))
    inside = _words(" ".join(first or second for first, second in _BRACKETS.findall(folded)))
    base, routes = _split_routes([*outside, *(word for word in inside if word in _ROUTE_OF)])
    kept = [word for position, word in enumerate(base) if word not in _FORMS and not _is_salt(base, position)]
    while kept and kept[0] == _JOINER:
        kept.pop(0)
    return kept, routes


@lru_cache(maxsize=65536)
def normalise_drug_name(name: str) -> str:
    """The substance's words in lower case ASCII, followed by its route words; empty if the name holds nothing else.

    Rules, in this order:

    1. Case is folded and accents are dropped; `b-12` becomes `b12` and `e.r.` becomes `er`.
    2. Bracketed text goes, except for the routes it names: `(Immediate Release)`, `(Dilaudid)`, `(Critical Care ...)`.
    3. Strengths, ratios, percentages and bare numbers go; an insulin ratio such as `70/30` becomes `mix`.
    4. Punctuation separates words.
    5. Words of form, release, packing or ordering go: `tablet`, `XL`, `soln`, `Desensitization`, `Replacement`, `and`.
    6. Salts go (`metoprolol tartrate`), unless the name begins with the cation (`sodium phosphate`) or the pair is a
       fluid's solute (`dextrose - sodium chloride`).
    7. Words of route become one of `ophthalmic`, `otic`, `nasal`, `throat`, `vaginal`, `rectal`, `inhaled`,
       `oral`, `intravenous`, `transdermal`, `topical` and move to the end in that order: `Ophth.`, `Neb`, `Cream`.
    """
    words, routes = _parts(name)
    return " ".join([*(word for word in words if word != _JOINER), *routes])


def _key(words: list[str]) -> str:
    # Word order carries nothing: "oxycodone-acetaminophen" and "acetaminophen and oxycodone" are one product.
    return " ".join(sorted(set(words) - {_JOINER}))


def _bracketed(name: str) -> list[str]:
    texts = [first or second for first, second in _BRACKETS.findall(name)]
    return [text for text in texts if text and not _NOT_A_NAME.match(text.lower())]


def _fold_exactly(name: str) -> str:
    return " ".join(name.split()).casefold()


def _read_columns(table: pa.Table, columns: tuple[str, str]) -> Iterator[tuple[str, str]]:
    first, second = (table.column(column).to_pylist() for column in columns)
    return ((left, right.strip()) for left, right in zip(first, second, strict=True) if left and right)


def _package_rows(file_name: str, columns: tuple[str, str]) -> list[tuple[str, str]]:
    with resources.files("leader_platform.data").joinpath("tables", file_name).open("rb") as stream:
        return list(_read_columns(pa_csv.read_csv(stream), columns))


def _terminology_rows(directory: str, file_name: str, columns: tuple[str, str]) -> list[tuple[str, str]]:
    path = str(Path(directory) / file_name)
    # Every column is text: a table whose codes all look like numbers or dates must not be read as such.
    options = pa_csv.ConvertOptions(
        include_columns=list(columns),
        column_types={column: pa.string() for column in columns},
        strings_can_be_null=True,
    )
    way_out = "give a terminology directory that holds it, or none to use the package's own table"
    try:
        return list(_read_columns(pa_csv.read_csv(path, convert_options=options), columns))
    except KeyError as error:
        expected = " and ".join(columns)
        raise UserError(f"The terminology table {path} lacks a column ({expected} are needed); {way_out}.") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"The terminology table {path} is missing or unreadable; {way_out}.") from error


def atc_class(code: str) -> str:
    """The third-level ATC class (four characters) of an ATC code of at least that length."""
    assert len(code) >= 4, f"{code!r} is coarser than the third ATC level"
    return code[:4].upper()


def atc_class_names() -> dict[str, str]:
    """English names of all third-level ATC classes, by four-character code, from the package's table."""
    return dict(_package_rows("atc_classes.csv", ("code", "name")))


def class_names_from_terminology(directory: str) -> dict[str, str]:
    """Names of the third-level ATC classes in `atc_coding.csv.gz` of a terminology directory, in sentence case.

    Where the table repeats a code, its first name holds. Raises UserError if the table is missing or unreadable.
    """
    names: dict[str, str] = {}
    for code, name in _terminology_rows(directory, "atc_coding.csv.gz", ("atc_code", "atc_name")):
        if len(code) == 4:
            names.setdefault(code.upper(), name[:1].upper() + name[1:])
    return names


@dataclass(frozen=True)
class DrugMap:
    """Looks up the ATC code of a drug name; plain data, so it pickles and travels to workers cheaply.

    `source` says where the codes come from: `"package"` or the terminology directory.
    """

    source: str
    codes: dict[str, str] = field(repr=False, hash=False)
    exact: bool = False

    @classmethod
    def from_package(cls) -> "DrugMap":
        """The map of the package's own tables of substances and brand names."""
        substances = dict(_package_rows("substances.csv", ("name", "atc")))
        brands = _package_rows("brand_names.csv", ("brand", "substance"))
        codes = {_key(normalise_drug_name(brand).split()): substances[name] for brand, name in brands}
        codes |= {_key(normalise_drug_name(name).split()): code for name, code in substances.items()}
        return cls(source=PACKAGE_SOURCE, codes=codes)

    @classmethod
    def from_terminology(cls, directory: str) -> "DrugMap":
        """The map of `mimic_drug_to_atc.csv.gz` in a directory; it replaces the package's tables, never adds to them.

        A name matches as it is spelt, else but for case and white space. Where the table repeats a name its last row
        holds, which is how the table's authors read it; codes coarser than the third level are left out. Raises
        UserError if the table is missing, unreadable or lacks a column.
        """
        rows = [
            (drug, code.upper())
            for drug, code in _terminology_rows(directory, "mimic_drug_to_atc.csv.gz", ("drug", "atc_code"))
            if len(code) >= 4
        ]
        codes = {_fold_exactly(drug): code for drug, code in rows}
        codes |= dict(rows)
        return cls(source=directory, codes=codes, exact=True)

    def atc(self, drug: str) -> str | None:
        """The finest ATC code known for a drug name (seven characters, seldom four or five), or None.

        Of the package's map, the name without its brackets is tried first, then its leading words, then each bracket.
        A combination the table does not hold stays unmapped: it is not taken for its first ingredient.
        """
        if self.exact:
            return self.codes.get(drug) or self.codes.get(_fold_exactly(drug))
        for candidate in (drug, *_bracketed(drug)):
            words, routes = _parts(candidate)
            code = self._code_of_words(words, routes) or self._code_of_leading_words(words, routes)
            if code is not None:
                return code
        return None

    def _code_of_words(self, words: list[str], routes: list[str]) -> str | None:
        if not words:
            return None
        for route in routes:
            if (code := self.codes.get(_key([*words, route]))) is not None:
                return code
        return self.codes.get(_key(words))

    def _code_of_leading_words(self, words: list[str], routes: list[str]) -> str | None:
        for length in range(len(words) - 1, 0, -1):
            if _JOINER in (words[length - 1], words[length]):
                continue
            code = self._code_of_words(words[:length], routes)
            if code is not None:
                return None if self._names_a_substance(words[length:]) else code
        return None

    def _names_a_substance(self, words: list[str]) -> bool:
        spans = (words[start:stop] for start in range(len(words)) for stop in range(start + 1, len(words) + 1))
        return any(_key(span) in self.codes for span in spans)

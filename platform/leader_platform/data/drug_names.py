"""Drug names as hospitals spell them, brought to one form, and looked up in a table of codes by that form."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

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
_ROUTES_OF_SENSES = frozenset({"ophthalmic", "otic"})  # what is given so has a code under S, or none
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
    "and with w in for nf inv tab tabs tablet tablets cap caps capsule capsules soln solution sol susp suspension "
    "liquid elixir syrup drops drop powder packet chewable chew disintegrating rapid dissolve odt wafer granules film "
    "extended immediate delayed sustained controlled release released ext rel xl xr er sr cr dr la ec ir cd sa hp ds "
    "ss sl sublingual pca pf preserv preservative free sugar sprinkles sprinkle infatab infusion drip vial syringe bag "
    "soaked protocol desensitization replacement buffered strength mg mcg ml gm meq units unit u once daily human "
    "enteric coated premix spray kit nebulization dental singles fiber disintegr puff liposomal graded challenge"
)
_FORMS = frozenset(_FORM_WORDS.split())
_STRENGTH = re.compile(
    r"(?<![a-z0-9.])\d[\d,.]*(?:\s*[/:x-]\s*\d[\d,.]*)*\s*"
    r"(?:%|(?:mg|mcg|ml|gm|g|meq|mmol|units?|unt|mm|kg|hr|hrs|l|million|in)(?![a-z]))?"
    r"(?:\s*(?:/|per)\s*(?:[\d.]+\s*)?(?:mg|mcg|ml|gm|g|meq|hr|hrs|l|dose|actuation|spray)(?![a-z]))?(?![a-z0-9])"
)
_MIXED_INSULIN = re.compile(r"(?<!\d)(?:70|75|50)\s*[/-]\s*(?:30|25|50)(?!\d)")
_CARRIERS = frozenset({"B05BA03", "B05BB01", "B05BB02", "B05XA03", "V07AB"})  # dextrose, Ringer's, saline, water
_JOINER = "+"
_JOINED = re.compile(r"(?<=[a-z0-9])(?:-+|\s*[/&+]\s*|\s+-(?=[a-z]))(?=[a-z])")
_NOT_A_NAME = re.compile(r"\s*(?:with|w/|without|in|for|from)(?![a-z])")
_MAX_LENGTH = 200  # twice MIMIC's longest name; every span of words is looked up, so a page would take hours
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


def _split_routes(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    found = {_ROUTE_OF[word] for word in words if word in _ROUTE_OF}
    return [word for word in words if word not in _ROUTE_OF], tuple(route for route in _ROUTES if route in found)


@lru_cache(maxsize=65536)
def _parts(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that name the drug, ingredients joined by `+`, and the routes."""
    folded = _fold(name)
    outside = _words(_BRACKETS.sub(" ", folded))
    inside = _words(" ".join(first or second for first, second in _BRACKETS.findall(folded)))
    base, routes = _split_routes([*outside, *(word for word in inside if word in _ROUTE_OF)])
    kept = [word for position, word in enumerate(base) if word not in _FORMS and not _is_salt(base, position)]
    while kept and kept[0] == _JOINER:
        kept.pop(0)
    return tuple(kept), routes


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


def name_key(name: str) -> str:
    """The key under which a table of codes holds a drug's name: the words of its normal form, sorted."""
    return _key(normalise_drug_name(name).split())


def fold_case(name: str) -> str:
    """The name as it is spelt, but for case and white space."""
    return " ".join(name.split()).casefold()


def code_by_name(codes: Mapping[str, str], name: str) -> str | None:
    """The code of a drug's name in a table by `name_key`, or None.

    The name without its brackets is tried first, then its leading words, then each bracket. A combination that the
    table does not hold stays without a code: it is not taken for its first ingredient, unless all others are of its
    class (`Lantus Insulin`) or fluids that carry it (`Heparin in D5W`). Nor is a drug for the eye or ear taken for the
    one that is swallowed.
    """
    name = name[:_MAX_LENGTH]
    _, routes = _parts(name)
    for candidate in (name, *_bracketed(name)):
        words, _ = _parts(candidate)
        code = _code_of_words(codes, words, routes) or _code_of_leading_words(codes, words, routes)
        if code is not None:
            return code
    return None


def _key(words: Iterable[str]) -> str:
    # Word order carries nothing: "oxycodone-acetaminophen" and "acetaminophen and oxycodone" are one product.
    return " ".join(sorted(set(words) - {_JOINER}))


def _bracketed(name: str) -> list[str]:
    texts = [first or second for first, second in _BRACKETS.findall(name)]
    return [text for text in texts if text and not _NOT_A_NAME.match(text.lower())]


def _code_of_words(codes: Mapping[str, str], words: tuple[str, ...], routes: tuple[str, ...]) -> str | None:
    if not words:
        return None
    for route in routes:
        if (code := codes.get(_key([*words, route]))) is not None:
            return code
    code = codes.get(_key(words))
    if code and not code.startswith("S") and _ROUTES_OF_SENSES.intersection(routes):
        return None
    return code


def _code_of_leading_words(codes: Mapping[str, str], words: tuple[str, ...], routes: tuple[str, ...]) -> str | None:
    for length in range(len(words) - 1, 0, -1):
        if _JOINER in (words[length - 1], words[length]):
            continue
        code = _code_of_words(codes, words[:length], routes)
        if code is not None:
            return None if _names_another_drug(codes, words[length:], code) else code
    return None


def _names_another_drug(codes: Mapping[str, str], words: tuple[str, ...], code: str) -> bool:
    """Whether the words name a substance of another class than the code's, other than a fluid that carries it."""
    spans = (words[start:stop] for start in range(len(words)) for stop in range(start + 1, len(words) + 1))
    named = {codes[key] for span in spans if (key := _key(span)) in codes}
    return any(other[:4] != code[:4] for other in named - _CARRIERS)

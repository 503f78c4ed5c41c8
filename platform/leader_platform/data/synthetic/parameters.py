"""The parameters of the synthetic cohort: the package's `synthetic_*.csv` tables, read into arrays.

`synthetic_conditions.csv`        one condition a row: prevalence at 60, log-odds of age and sex, causes, variants
`synthetic_diagnosis_codes.csv`   ICD codes of each condition (and variant), with relative frequencies and titles
`synthetic_procedures.csv`        probability of a procedure given a source (a condition, a variant or a setting)
`synthetic_procedure_codes.csv`   ICD codes of each procedure
`synthetic_drugs.csv`             one drug a row: base probability, age and sex effects, continuation, dosing
`synthetic_indications.csv`       probability of a drug given a source (a condition, variant, setting or procedure)
`synthetic_coprescriptions.csv`   probability of a drug given another drug of the same visit

A source is what can call for a drug. The sources of a visit are a row of booleans, in this order: conditions, variants,
settings, procedures. Rates are -log(1 - probability), so that causes add up (noisy-or).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from leader_platform.data.synthetic.arrays import Bools, Floats, Ints
from leader_platform.data.synthetic.choices import ICD_VERSIONS, CodeBook, limits_of

SETTINGS = ("setting_icu", "setting_surgery")
# What is left of a drug's probability in the years in which the hospital named or used another one.
OTHER_ERA_FACTOR = 0.06
# The column `start` of `synthetic_drugs.csv`: the probability that the first order of a visit comes early.
EARLY_START = {"home": 1.0, "early": 1.0, "any": 0.4, "late": 0.0}
# Teams are part of the hospital, not of a cohort: their habits are the same under every seed.
NUM_TEAMS, PROVIDERS_PER_TEAM, HABIT_SEED, HABIT_SIGMA = 12, 16, 20100, 0.25

Row = dict[str, str]


@dataclass(frozen=True)
class Conditions:
    """`synthetic_conditions.csv`: one entry a condition, effects in log-odds.

    `raised[k, c]` is the effect of k on c; the causes of a condition stand in an earlier one of `levels`. A variant is
    a share [lower, upper) of its condition's.
    """

    names: tuple[str, ...]
    is_chronic: Bools
    log_odds_at_60: Floats
    age_per_decade: Floats
    female: Floats
    excluded: Bools  # [sexes (M, F), conditions]
    age_min: Floats
    age_max: Floats
    recorded: Floats
    setting_rate: Floats  # [conditions, settings]
    raised: Floats  # [conditions, conditions]
    levels: tuple[Ints, ...]
    variant_names: tuple[str, ...]
    variant_of: Ints  # [variants]
    variant_lower: Floats
    variant_upper: Floats


@dataclass(frozen=True)
class Drug:
    """One row of `synthetic_drugs.csv`, less the columns that `Parameters` holds as arrays."""

    name: str
    atc_class: str
    group: str
    dose: str
    unit: str
    form: str
    route: str

    @property
    def formulary_code(self) -> str:
        """As the hospital's pharmacy abbreviates it."""
        letters, digits = filter(str.isalpha, self.name), filter(str.isdigit, self.dose)
        return "".join(letters).upper()[:4] + "".join(digits)[:3]

    @property
    def strength(self) -> str:
        return f"{self.dose} {self.unit} {self.form}"


@dataclass(frozen=True)
class Parameters:
    """All parameters. Arrays of drugs have one entry a drug, in the order of `drugs`."""

    conditions: Conditions
    diagnosis_codes: CodeBook
    procedures: tuple[str, ...]
    procedure_rate: Floats  # [sources that are no procedures, procedures]
    procedure_codes: CodeBook
    drugs: tuple[Drug, ...]
    base_rate: Floats
    age_effect: Floats
    female_effect: Floats
    continuation: Floats
    extra_orders: Floats
    early_start: Floats  # probability that the first order stands from the first hours on
    is_diluted: Bools  # comes in a vial or bag for infusion, so that an order can name the fluid beside it
    era_factor: Floats  # [versions, drugs]
    habit: Floats  # [teams, drugs]
    indication_rate: Floats  # [sources, drugs]
    companion_rate: Floats  # [drugs, drugs]
    exclusive_groups: tuple[Ints, ...]


def load_parameters() -> Parameters:
    """Reads the package's `synthetic_*.csv` tables. Raises KeyError if one of them names what another lacks."""
    conditions, drug_rows = _conditions(_read("conditions")), _read("drugs")
    drugs = tuple(Drug(*(row[key] for key in _DRUG_FIELDS)) for row in drug_rows)
    procedure_rows = _read("procedures")
    procedures = tuple(dict.fromkeys(row["procedure"] for row in procedure_rows))
    sources = (*conditions.names, *conditions.variant_names, *SETTINGS)
    drug_names = tuple(drug.name for drug in drugs)
    habits = np.random.default_rng(HABIT_SEED).normal(-(HABIT_SIGMA**2) / 2, HABIT_SIGMA, (NUM_TEAMS, len(drugs)))
    return Parameters(
        conditions=conditions,
        diagnosis_codes=_code_book(_read("diagnosis_codes"), "condition", "variant"),
        procedures=procedures,
        procedure_rate=_rates(procedure_rows, ("source", sources), ("procedure", procedures)),
        procedure_codes=_code_book(_read("procedure_codes"), "procedure"),
        drugs=drugs,
        base_rate=_rate(_column(drug_rows, "base")),
        age_effect=_column(drug_rows, "age_per_decade"),
        female_effect=_column(drug_rows, "female"),
        continuation=_column(drug_rows, "continuation"),
        extra_orders=_column(drug_rows, "orders"),
        early_start=np.array([EARLY_START[row["start"]] for row in drug_rows]),
        is_diluted=np.array([row["route"].startswith("IV") and row["form"] in ("VIAL", "BAG") for row in drug_rows]),
        era_factor=np.array([_era_factor(drug_rows, version) for version in ICD_VERSIONS]),
        habit=np.exp(habits),
        indication_rate=_rates(_read("indications"), ("source", (*sources, *procedures)), ("drug", drug_names)),
        companion_rate=_rates(_read("coprescriptions"), ("source_drug", drug_names), ("drug", drug_names)),
        exclusive_groups=_exclusive_groups(drugs),
    )


_DRUG_FIELDS = ("drug", "atc_class", "group", "dose", "unit", "form", "route")


def _read(name: str) -> list[Row]:
    table = files("leader_platform.data").joinpath("tables", f"synthetic_{name}.csv")
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def _weighted(text: str) -> list[tuple[str, float]]:
    """Parses `name:number name:number`."""
    pairs = (item.rsplit(":", 1) for item in text.split())
    return [(name, float(number)) for name, number in pairs]


def _column(rows: list[Row], name: str) -> Floats:
    return np.array([float(row[name]) for row in rows])


def _rate(probability: Floats) -> Floats:
    return -np.log1p(-probability)


def _rates(rows: list[Row], by: tuple[str, tuple[str, ...]], of: tuple[str, tuple[str, ...]]) -> Floats:
    """[by, of]: the column `probability` as rates; `by` and `of` are a column and the names that it may hold."""
    places = [{name: index for index, name in enumerate(names)} for _, names in (by, of)]
    probability = np.zeros((len(places[0]), len(places[1])))
    for row in rows:
        probability[places[0][row[by[0]]], places[1][row[of[0]]]] = float(row["probability"])
    return _rate(probability)


def _conditions(rows: list[Row]) -> Conditions:
    prevalence = _column(rows, "prevalence_at_60")
    variants = [(c, *variant) for c, row in enumerate(rows) if row["variants"] for variant in _variants(row)]
    variant_of, variant_names, lower, upper = zip(*variants, strict=True)
    raised = _raised(rows)
    return Conditions(
        names=tuple(row["condition"] for row in rows),
        is_chronic=np.array([row["course"] == "chronic" for row in rows]),
        log_odds_at_60=np.log(prevalence / (1 - prevalence)),
        age_per_decade=_column(rows, "age_per_decade"),
        female=_column(rows, "female"),
        excluded=np.array([[row["sex"] == "F", row["sex"] == "M"] for row in rows]).T,
        age_min=_column(rows, "age_min"),
        age_max=_column(rows, "age_max"),
        recorded=_column(rows, "recorded"),
        setting_rate=_rate(np.column_stack([_column(rows, "icu"), _column(rows, "surgery")])),
        raised=raised,
        levels=_levels(raised != 0),
        variant_names=variant_names,
        variant_of=np.array(variant_of),
        variant_lower=np.array(lower),
        variant_upper=np.array(upper),
    )


def _variants(row: Row) -> Iterable[tuple[str, float, float]]:
    """The variants of one condition, each with the bounds of its share."""
    names, weights = zip(*_weighted(row["variants"]), strict=True)
    limits = limits_of(weights)
    return zip((f"{row['condition']}/{name}" for name in names), [0.0, *limits], limits, strict=False)


def _raised(rows: list[Row]) -> Floats:
    index = {row["condition"]: c for c, row in enumerate(rows)}
    raised = np.zeros((len(rows), len(rows)))
    for c, row in enumerate(rows):
        for cause, effect in _weighted(row["raised_by"]):
            raised[index[cause], c] = effect
    return raised


def _levels(raises: Bools) -> tuple[Ints, ...]:
    """The conditions in groups that can be drawn together: all causes of one stand in groups before its own."""
    level = np.zeros(len(raises), dtype=np.intp)
    for c in range(len(raises)):  # the table lists causes before what they raise
        assert not raises[c:, c].any()
        level[c] = 1 + max(level[raises[:, c]], default=-1)
    return tuple(np.flatnonzero(level == number) for number in range(level.max() + 1))


def _code_book(rows: list[Row], *columns: str) -> CodeBook:
    """`columns` make up the name of what is coded."""
    return CodeBook.from_rows(
        (
            "/".join(row[column] for column in columns if row[column]),
            int(row["icd_version"]),
            row["icd_code"],
            float(row["weight"]),
            row["title"],
        )
        for row in rows
    )


def _era_factor(rows: list[Row], version: int) -> Floats:
    return np.array([1.0 if row["era"] in ("any", f"icd{version}") else OTHER_ERA_FACTOR for row in rows])


def _exclusive_groups(drugs: tuple[Drug, ...]) -> tuple[Ints, ...]:
    """Drugs of each group of which a patient takes one at most (two statins make no sense)."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, drug in enumerate(drugs):
        if drug.group:
            members[drug.group].append(index)
    return tuple(np.array(indices) for indices in members.values())

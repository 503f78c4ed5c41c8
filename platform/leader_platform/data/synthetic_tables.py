"""The parameters of the synthetic cohort: the package's `synthetic_*.csv` tables, read into arrays.

`synthetic_conditions.csv`        one condition a row: prevalence at 60, log-odds of age and sex, causes, variants
`synthetic_diagnosis_codes.csv`   ICD codes of each condition (and variant), with relative frequencies and titles
`synthetic_procedures.csv`        probability of a procedure given a source (a condition, a variant or a setting)
`synthetic_procedure_codes.csv`   ICD codes of each procedure
`synthetic_drugs.csv`             one drug a row: base probability, age and sex effects, continuation, dosing
`synthetic_indications.csv`       probability of a drug given a source (a condition, variant, setting or procedure)
`synthetic_coprescriptions.csv`   probability of a drug given another drug of the same visit
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

SETTINGS = ("setting_icu", "setting_surgery")
ICD_VERSIONS = (9, 10)
# What is left of a drug's probability in the years in which the hospital named or used another one.
OTHER_ERA_FACTOR = 0.06

Row = dict[str, str]


@dataclass(frozen=True)
class Choice:
    """Values with relative frequencies, to be drawn with one uniform number."""

    values: tuple[str, ...]
    cumulative: tuple[float, ...]

    @classmethod
    def from_weights(cls, weighted: Iterable[tuple[str, float]]) -> "Choice":
        """`weighted` holds (value, weight) pairs; the weights need not sum to one."""
        pairs = list(weighted)
        total = sum(weight for _, weight in pairs)
        return cls(tuple(value for value, _ in pairs), tuple(accumulate(weight / total for _, weight in pairs)))

    def pick(self, uniform: float) -> str:
        """The value at `uniform`, a number in [0, 1)."""
        for value, limit in zip(self.values, self.cumulative, strict=True):
            if uniform < limit:
                return value
        return self.values[-1]  # rounding can leave the last limit a hair below one


@dataclass(frozen=True)
class Condition:
    """One row of `synthetic_conditions.csv`; effects are log-odds, `raised_by` holds (condition, log-odds) pairs."""

    name: str
    is_chronic: bool
    log_odds_at_60: float
    age_per_decade: float
    female: float
    sex: str
    age_min: int
    age_max: int
    recorded: float
    icu: float
    surgery: float
    raised_by: tuple[tuple[str, float], ...]
    variants: Choice | None

    def probability(self, age: float, sex: str, present: Iterable[str]) -> float:
        """Probability that a patient of `age` (years) and `sex` (F or M) with the conditions `present` has this one."""
        if (self.sex and sex != self.sex) or not self.age_min <= age <= self.age_max:
            return 0.0
        log_odds = self.log_odds_at_60 + self.age_per_decade * (age - 60) / 10 + self.female * (sex == "F")
        log_odds += sum(effect for name, effect in self.raised_by if name in present)
        return 1 / (1 + math.exp(-log_odds))


@dataclass(frozen=True)
class Drug:
    """One row of `synthetic_drugs.csv`, less the columns that `SyntheticTables` holds as arrays."""

    name: str
    atc_class: str
    group: str
    start: str
    dose: str
    unit: str
    form: str
    route: str


@dataclass(frozen=True)
class SyntheticTables:
    """All parameters. Arrays have one entry a drug, in the order of `drugs`; rates are -log(1 - probability)."""

    conditions: tuple[Condition, ...]
    diagnosis_codes: dict[tuple[str, str, int], Choice]
    procedures: dict[str, list[tuple[str, float]]]
    procedure_codes: dict[tuple[str, int], Choice]
    diagnosis_titles: dict[tuple[int, str], str]
    procedure_titles: dict[tuple[int, str], str]
    drugs: tuple[Drug, ...]
    base_rate: NDArray[np.float64]
    age_effect: NDArray[np.float64]
    female_effect: NDArray[np.float64]
    continuation: NDArray[np.float64]
    extra_orders: NDArray[np.float64]
    era_factor: dict[int, NDArray[np.float64]]
    source_index: dict[str, int]
    indication_rate: NDArray[np.float64]
    coprescriptions: tuple[tuple[int, int, float], ...]

    @cached_property
    def chronic(self) -> tuple[Condition, ...]:
        """The conditions that persist over visits, causes before what they raise."""
        return tuple(condition for condition in self.conditions if condition.is_chronic)

    @cached_property
    def acute(self) -> tuple[Condition, ...]:
        """The conditions drawn anew at every visit, causes before what they raise."""
        return tuple(condition for condition in self.conditions if not condition.is_chronic)

    @cached_property
    def exclusive_groups(self) -> tuple[NDArray[np.intp], ...]:
        """Drug indices of each group of which a patient takes one at most (two statins make no sense)."""
        members: dict[str, list[int]] = defaultdict(list)
        for index, drug in enumerate(self.drugs):
            if drug.group:
                members[drug.group].append(index)
        return tuple(np.array(indices) for indices in members.values())

    @cached_property
    def code_keys(self) -> dict[int, tuple[tuple[str, str, int], ...]]:
        """For each ICD version, every key of `diagnosis_codes`: what a miscoded diagnosis is drawn from."""
        return {version: tuple(key for key in self.diagnosis_codes if key[2] == version) for version in ICD_VERSIONS}


def load_tables() -> SyntheticTables:
    """Reads the package's `synthetic_*.csv` tables. Raises KeyError if one of them names what another lacks."""
    diagnosis_rows, procedure_rows = _read("diagnosis_codes"), _read("procedure_codes")
    drug_rows, procedures = _read("drugs"), _procedures(_read("procedures"))
    conditions = tuple(_condition(row) for row in _read("conditions"))
    drugs = tuple(Drug(*(row[key] for key in _DRUG_FIELDS)) for row in drug_rows)
    drug_index = {drug.name: index for index, drug in enumerate(drugs)}
    source_index = _source_index(conditions, procedures)
    return SyntheticTables(
        conditions=conditions,
        diagnosis_codes=_choices(diagnosis_rows, ("condition", "variant")),
        procedures=procedures,
        procedure_codes=_choices(procedure_rows, ("procedure",)),
        diagnosis_titles=_titles(diagnosis_rows),
        procedure_titles=_titles(procedure_rows),
        drugs=drugs,
        base_rate=_rate(_column(drug_rows, "base")),
        age_effect=_column(drug_rows, "age_per_decade"),
        female_effect=_column(drug_rows, "female"),
        continuation=_column(drug_rows, "continuation"),
        extra_orders=_column(drug_rows, "orders"),
        era_factor={version: _era_factor(drug_rows, version) for version in ICD_VERSIONS},
        source_index=source_index,
        indication_rate=_indication_rate(_read("indications"), source_index, drug_index),
        coprescriptions=tuple(
            (drug_index[row["source_drug"]], drug_index[row["drug"]], float(row["probability"]))
            for row in _read("coprescriptions")
        ),
    )


_DRUG_FIELDS = ("drug", "atc_class", "group", "start", "dose", "unit", "form", "route")


def _read(name: str) -> list[Row]:
    table = files("leader_platform.data").joinpath("tables", f"synthetic_{name}.csv")
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def _weighted(text: str) -> list[tuple[str, float]]:
    """Parses `name:number name:number`."""
    pairs = (item.rsplit(":", 1) for item in text.split())
    return [(name, float(number)) for name, number in pairs]


def _condition(row: Row) -> Condition:
    prevalence = float(row["prevalence_at_60"])
    return Condition(
        name=row["condition"],
        is_chronic=row["course"] == "chronic",
        log_odds_at_60=math.log(prevalence / (1 - prevalence)),
        age_per_decade=float(row["age_per_decade"]),
        female=float(row["female"]),
        sex=row["sex"],
        age_min=int(row["age_min"]),
        age_max=int(row["age_max"]),
        recorded=float(row["recorded"]),
        icu=float(row["icu"]),
        surgery=float(row["surgery"]),
        raised_by=tuple(_weighted(row["raised_by"])),
        variants=Choice.from_weights(_weighted(row["variants"])) if row["variants"] else None,
    )


def _choices(rows: list[Row], columns: tuple[str, ...]) -> dict[tuple, Choice]:
    weighted: dict[tuple, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        key = (*(row[column] for column in columns), int(row["icd_version"]))
        weighted[key].append((row["icd_code"], float(row["weight"])))
    return {key: Choice.from_weights(pairs) for key, pairs in weighted.items()}


def _titles(rows: list[Row]) -> dict[tuple[int, str], str]:
    return dict(sorted(((int(row["icd_version"]), row["icd_code"]), row["title"]) for row in rows))


def _procedures(rows: list[Row]) -> dict[str, list[tuple[str, float]]]:
    by_procedure: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        by_procedure[row["procedure"]].append((row["source"], float(row["probability"])))
    return dict(by_procedure)


def _source_index(conditions: tuple[Condition, ...], procedures: dict[str, list[tuple[str, float]]]) -> dict[str, int]:
    names = [condition.name for condition in conditions]
    names += [f"{c.name}/{variant}" for c in conditions if c.variants for variant in c.variants.values]
    return {name: index for index, name in enumerate([*names, *SETTINGS, *procedures])}


def _column(rows: list[Row], name: str) -> NDArray[np.float64]:
    return np.array([float(row[name]) for row in rows])


def _rate(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log1p(-probability)


def _era_factor(rows: list[Row], version: int) -> NDArray[np.float64]:
    return np.array([1.0 if row["era"] in ("any", f"icd{version}") else OTHER_ERA_FACTOR for row in rows])


def _indication_rate(rows: list[Row], sources: dict[str, int], drugs: dict[str, int]) -> NDArray[np.float64]:
    probability = np.zeros((len(sources), len(drugs)))
    for row in rows:
        probability[sources[row["source"]], drugs[row["drug"]]] = float(row["probability"])
    return _rate(probability)

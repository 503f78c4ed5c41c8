"""The generative model of the synthetic cohort: one patient from a seed and an index.

Patient p has an age a at the first visit, a sex s and a number of visits N = 1 + floor(Y), where Y is lognormal with a
location that rises with the number of chronic conditions (a heavy tail; about half have one visit). Visit v of p:

Conditions. With sigma the logistic function and the parameters of `synthetic_conditions.csv`,
    P(c | a, s, C) = sigma(logit(prevalence_c) + age_c (a - 60)/10 + female_c [s = F] + sum_{k in C} raised_{k,c}).
Chronic conditions are drawn at the first visit and persist; an absent one begins at a later visit with probability
ONSET P(c). Acute ones are drawn at every visit with P(c), or'ed with RELAPSE if the last visit had them; a visit
without any gets one, drawn in proportion to P(c). A condition with variants (systolic, diastolic, ...) has one; a
chronic one keeps it. Settings: P(ICU) = 1 - prod_c (1 - icu_c), and likewise surgery. Procedures: noisy-or over their
sources.

Diagnosis codes. A present condition is coded with probability recorded_c, by a code drawn by its frequency within
(condition, variant, ICD version), and by a second one with probability SECOND_CODE; a code is replaced by one of a
random condition with probability MISCODED. The version is 10 from October 2015 of the real calendar, before that 9.
So a rare code's drugs are those of its condition and variant, whose words its title shares.

Drugs. With base rate b_m, indication rates r_{k,m} = -log(1 - w_{k,m}) over the sources S_v that are present
(conditions, variants, settings, procedures), an intensity u_v ~ Gamma(8, 1/8) of the visit, a lasting taste
g_{p,m} ~ lognormal of the patient and the era's factor e_m, the noisy-or
    lambda_m = b_m exp(age_m (a - 60)/10 + female_m [s = F]) + sum_{k in S_v} r_{k,m}
    P(m) = 1 - exp(-u_v g_{p,m} e_m lambda_m) (1 - e_m continuation_m [m in M_{v-1}]).
Of an exclusive group (statins, ...) one drug is kept, a continued one first. Then each drug present causes its
companions m' (opioid -> laxative, loop diuretic -> potassium) with probability e_{m'} w_{m,m'}. Each drug has
1 + Poisson orders.

Everything of patient p comes from `default_rng([seed, p])`: patients do not depend on how many are drawn.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from leader_platform.data.synthetic_tables import Choice, Condition, SyntheticTables

ONSET, RELAPSE, SECOND_CODE, MISCODED = 0.06, 0.12, 0.42, 0.04
TASTE_SIGMA, INTENSITY_SHAPE = 0.4, 8.0
MAX_VISITS = 40
NO_DIAGNOSES, NO_PRESCRIPTIONS = 0.01, 0.03
ICD10_START = (2015, 10)
FIRST_ANCHOR_YEAR, LAST_ANCHOR_YEAR = 2110, 2176
ANCHOR_GROUPS = Choice.from_weights([("2008", 0.34), ("2011", 0.24), ("2014", 0.20), ("2017", 0.16), ("2020", 0.06)])

DiagnosisCode = tuple[str, int]


@dataclass(frozen=True)
class Orders:
    """The order rows of one visit, equally many. `drug` indexes `SyntheticTables.drugs`; hours count from admission."""

    drug: NDArray[np.intp]
    start_hours: NDArray[np.float64]
    stop_hours: NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticVisit:
    """One hospital stay. `procedure_codes` holds (code, version, days from admission)."""

    admitted: datetime
    discharged: datetime
    is_icu: bool
    is_surgical: bool
    diagnosis_codes: tuple[DiagnosisCode, ...]
    procedure_codes: tuple[tuple[str, int, int], ...]
    orders: Orders


@dataclass(frozen=True)
class SyntheticPatient:
    """One patient; `visits` in the order of time. `rng` is the patient's own stream, for administrative fields."""

    sex: str
    anchor_age: int
    anchor_year: int
    anchor_year_group: str
    visits: tuple[SyntheticVisit, ...]
    died: datetime | date | None
    rng: Generator


@dataclass
class _History:
    """What one visit hands to the next."""

    sex: str
    variants: dict[str, str] = field(default_factory=dict)
    chronic: set[str] = field(default_factory=set)
    acute: set[str] = field(default_factory=set)
    drugs: set[int] = field(default_factory=set)
    taste: NDArray[np.float64] = field(default_factory=lambda: np.ones(0))


def draw_patient(tables: SyntheticTables, seed: int, index: int) -> SyntheticPatient:
    """Patient number `index` of the cohort `seed`, with all visits, diagnoses, procedures and orders."""
    rng = np.random.default_rng([seed, index])
    group = int(ANCHOR_GROUPS.pick(rng.random()))
    anchor_year = int(rng.integers(FIRST_ANCHOR_YEAR, LAST_ANCHOR_YEAR + 1))
    calendar_shift = anchor_year - (group + int(rng.integers(3)))
    age = int(np.clip(np.rint(rng.normal(61, 18)), 18, 95))
    history = _History(sex="F" if rng.random() < 0.52 else "M")
    history.taste = np.exp(rng.normal(-(TASTE_SIGMA**2) / 2, TASTE_SIGMA, len(tables.drugs)))
    _draw_chronic(tables, rng, history, age, share=1.0)
    num_visits = _num_visits(rng, len(history.chronic))
    admitted = datetime(anchor_year, 1, 1) + timedelta(minutes=int(rng.integers(365 * 24 * 60)))
    visits = []
    for visit_number in range(num_visits):
        age_now = age + admitted.year - anchor_year
        if visit_number:
            _draw_chronic(tables, rng, history, age_now, share=ONSET)
        version = 10 if (admitted.year - calendar_shift, admitted.month) >= ICD10_START else 9
        visits.append(_draw_visit(tables, rng, history, admitted, age_now, version))
        admitted = visits[-1].discharged + timedelta(minutes=_gap_minutes(rng, num_visits))
    # Ages above 89 are published as 91, to protect the oldest.
    anchor_age, died = (91 if age > 89 else age), _death(rng, age, visits[-1])
    return SyntheticPatient(history.sex, anchor_age, anchor_year, f"{group} - {group + 2}", tuple(visits), died, rng)


def _num_visits(rng: Generator, num_chronic: int) -> int:
    extra = rng.lognormal(-0.36 + 0.075 * num_chronic, 1.08)
    return min(1 + int(extra), MAX_VISITS)


def _gap_minutes(rng: Generator, num_visits: int) -> int:
    """Time at home. Frequent visitors come sooner, which also keeps every history within about a decade."""
    return 24 * 60 + int(rng.exponential(min(220.0, 1800 / num_visits)) * 24 * 60)


def _death(rng: Generator, age: int, last: SyntheticVisit) -> datetime | date | None:
    in_hospital, later = rng.random(2)
    days = rng.exponential(150)
    if in_hospital < 0.008 + 0.09 * last.is_icu + (0.01 if age > 75 else 0):
        return last.discharged
    return (last.discharged + timedelta(days=1 + days)).date() if later < 0.05 + 0.004 * max(age - 50, 0) else None


def _draw_chronic(tables: SyntheticTables, rng: Generator, history: _History, age: int, share: float) -> None:
    for condition, uniform in zip(tables.chronic, rng.random(len(tables.chronic)), strict=True):
        probability = share * condition.probability(age, history.sex, history.chronic)
        if condition.name not in history.chronic and uniform < probability:
            history.chronic.add(condition.name)
            history.variants[condition.name] = _variant(rng, condition)


def _variant(rng: Generator, condition: Condition) -> str:
    return condition.variants.pick(rng.random()) if condition.variants else ""


def _draw_acute(tables: SyntheticTables, rng: Generator, history: _History, age: int) -> dict[str, str]:
    """Acute conditions of one visit, with their variants; at least one."""
    present, probabilities = set(history.chronic), []
    acute: dict[str, str] = {}
    for condition, uniform in zip(tables.acute, rng.random(len(tables.acute)), strict=True):
        probability = condition.probability(age, history.sex, present)
        probabilities.append(probability)
        if probability and condition.name in history.acute:
            probability = 1 - (1 - probability) * (1 - RELAPSE)
        if uniform < probability:
            present.add(condition.name)
            acute[condition.name] = _variant(rng, condition)
    if not acute:
        reasons = Choice.from_weights((c.name, p) for c, p in zip(tables.acute, probabilities, strict=True))
        name = reasons.pick(rng.random())
        acute[name] = next(_variant(rng, condition) for condition in tables.acute if condition.name == name)
    return acute


def _draw_visit(
    tables: SyntheticTables, rng: Generator, history: _History, admitted: datetime, age: int, version: int
) -> SyntheticVisit:
    acute = _draw_acute(tables, rng, history, age)
    present = acute | {condition.name: history.variants[condition.name] for condition in _chronic(tables, history)}
    is_icu, is_surgical = _settings(tables, rng, present)
    sources = [*present, *(f"{name}/{variant}" for name, variant in present.items() if variant)]
    sources += ["setting_icu"] * is_icu + ["setting_surgery"] * is_surgical
    procedures = _draw_procedures(tables, rng, sources)
    stay_hours = _stay_hours(rng, len(acute), is_icu, is_surgical)
    drugs = _draw_drugs(tables, rng, history, [*sources, *procedures], age, version)
    history.acute, history.drugs = set(acute), set(drugs.tolist())
    is_coded, is_prescribed = rng.random() >= NO_DIAGNOSES, rng.random() >= NO_PRESCRIPTIONS
    return SyntheticVisit(
        admitted=admitted,
        discharged=admitted + timedelta(minutes=int(stay_hours * 60)),
        is_icu=is_icu,
        is_surgical=is_surgical,
        diagnosis_codes=_draw_diagnosis_codes(tables, rng, acute, present, version) if is_coded else (),
        procedure_codes=_draw_procedure_codes(tables, rng, procedures, stay_hours, version),
        orders=_draw_orders(tables, rng, drugs if is_prescribed else drugs[:0], stay_hours),
    )


def _chronic(tables: SyntheticTables, history: _History) -> list[Condition]:
    """In the table's order: the order of a set of strings differs between processes."""
    return [condition for condition in tables.chronic if condition.name in history.chronic]


def _settings(tables: SyntheticTables, rng: Generator, present: dict[str, str]) -> tuple[bool, bool]:
    no_icu = no_surgery = 1.0
    for condition in tables.conditions:
        if condition.name in present:
            no_icu *= 1 - condition.icu
            no_surgery *= 1 - condition.surgery
    return bool(rng.random() > no_icu), bool(rng.random() > no_surgery)


def _stay_hours(rng: Generator, num_acute: int, is_icu: bool, is_surgical: bool) -> float:
    median_days = 2.3 * 1.13 ** min(num_acute, 8) * (1.7 if is_icu else 1) * (1.2 if is_surgical else 1)
    return float(np.clip(24 * median_days * rng.lognormal(0, 0.7), 5, 24 * 60))


def _draw_procedures(tables: SyntheticTables, rng: Generator, sources: list[str]) -> list[str]:
    active, drawn = set(sources), []
    for (procedure, causes), uniform in zip(tables.procedures.items(), rng.random(len(tables.procedures)), strict=True):
        none = 1.0
        for source, probability in causes:
            none *= 1 - probability * (source in active)
        if uniform < 1 - none:
            drawn.append(procedure)
    return drawn


def _draw_drugs(
    tables: SyntheticTables, rng: Generator, history: _History, sources: list[str], age: int, version: int
) -> NDArray[np.intp]:
    """Indices of the drugs of one visit, ascending."""
    era = tables.era_factor[version]
    continued = np.zeros(len(tables.drugs))
    continued[sorted(history.drugs)] = 1.0
    rate = tables.base_rate * np.exp(
        tables.age_effect * (age - 60) / 10 + tables.female_effect * (history.sex == "F")
    ) + tables.indication_rate[[tables.source_index[source] for source in sources]].sum(axis=0)
    intensity = rng.gamma(INTENSITY_SHAPE, 1 / INTENSITY_SHAPE)
    absent = np.exp(-intensity * history.taste * era * rate) * (1 - era * tables.continuation * continued)
    uniform = rng.random(len(tables.drugs))
    present = uniform > absent
    for members in tables.exclusive_groups:
        taken = members[present[members]]
        if len(taken) > 1:
            present[members] = False
            present[taken[np.argmin(absent[taken] - continued[taken])]] = True
    _add_companions(tables, rng, present, era)
    return np.flatnonzero(present)


def _add_companions(
    tables: SyntheticTables, rng: Generator, present: NDArray[np.bool_], era: NDArray[np.float64]
) -> None:
    """Adds, in place, the drugs that other drugs call for; one pass, so causes that stand first reach further."""
    for (cause, drug, probability), uniform in zip(
        tables.coprescriptions, rng.random(len(tables.coprescriptions)), strict=True
    ):
        if present[cause] and uniform < probability * era[drug]:
            present[drug] = True


def _draw_orders(tables: SyntheticTables, rng: Generator, drugs: NDArray[np.intp], stay_hours: float) -> Orders:
    counts = 1 + rng.poisson(tables.extra_orders[drugs] * min(stay_hours / 24, 12) / 3)
    rows = np.repeat(drugs, counts)
    is_first = np.concatenate([[True], rows[1:] != rows[:-1]])[: len(rows)]
    prompt, spread, immediate = rng.exponential(10.0, len(rows)), rng.random(len(rows)), rng.random(len(rows))
    kinds = np.array([tables.drugs[index].start for index in rows], dtype=object)
    is_prompt = is_first & ((kinds == "home") | (kinds == "early") | ((kinds == "any") & (immediate < 0.4)))
    start = np.where(is_prompt, np.minimum(prompt, 0.9 * stay_hours), spread * 0.95 * stay_hours)
    stop = np.minimum(start + 1 + rng.exponential(36.0, len(rows)), stay_hours)
    return Orders(rows, start, stop)


def _draw_procedure_codes(
    tables: SyntheticTables, rng: Generator, procedures: list[str], stay_hours: float, version: int
) -> tuple[tuple[str, int, int], ...]:
    codes: dict[str, int] = {}
    for procedure in procedures:
        day = int(rng.random() ** 2 * stay_hours / 24)
        for _ in range(1 + (rng.random() < 0.6)):
            codes.setdefault(tables.procedure_codes[procedure, version].pick(rng.random()), day)
    return tuple((code, version, day) for code, day in codes.items())


def _draw_diagnosis_codes(
    tables: SyntheticTables, rng: Generator, acute: dict[str, str], present: dict[str, str], version: int
) -> tuple[DiagnosisCode, ...]:
    """Codes in the order of `seq_num`: what brought the patient in first, the others in no order."""
    recorded = {condition.name: condition.recorded for condition in tables.conditions}
    principal: list[str] = []
    others: list[str] = []
    for name, variant in present.items():
        for copy in range(2):
            chance, miscoded, key, choice = rng.random(4)
            if chance >= (recorded[name] if copy == 0 else SECOND_CODE * recorded[name]):
                continue
            keys = tables.code_keys[version]
            source = keys[int(key * len(keys))] if miscoded < MISCODED else (name, variant, version)
            code = tables.diagnosis_codes[source].pick(choice)
            (principal if name in acute and not principal else others).append(code)
    shuffled = [others[position] for position in rng.permutation(len(others))]
    return tuple((code, version) for code in dict.fromkeys([*principal, *shuffled]))

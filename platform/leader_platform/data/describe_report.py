"""A prepared data set as sections of a page: the tables of its manifest, and its statistics as tables and charts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from leader_platform.data import manifest_tables
from leader_platform.data.records import KINDS
from leader_platform.report import Chart, Score, Section, Share, Table, bar_chart, chart, columns, html_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from leader_platform.data.describe import Description, Distribution
    from leader_platform.data.prescribed_interactions import InteractionStatistics

Titles = Mapping[str, str]

_FOOTER = (
    "This page holds counts of patients' records, down to single patients. Where the data came under an agreement on "
    "its use, such as PhysioNet's for MIMIC, handle the page as the agreement demands of the data, above all a small "
    "cohort's."
)
_DEFINITION = (
    "The rate is the literature's: of all pairs of different codes that were prescribed in a visit, over all visits "
    "together, the share that the data set's table lists as interacting. It says how clinicians prescribed; read a "
    "model's rate beside it."
)
_MOST_CLASSES = 30
_MOST_VALUES = 8
_NAMES = {"gender": "sex", "marital_status": "marital status", "year": "calendar year, approximate"}
_IN_ORDER = ("age", "year")  # all of their values, in order; of other fields the most frequent
# Bands of the share of visits, by their lower end.
_TAIL = {"50% and more": 0.5, "10% to 50%": 0.1, "1% to 10%": 0.01, "0.1% to 1%": 0.001, "less than 0.1%": 0.0}


def page(manifest: dict[str, Any], statistics: Description, contents: list[Section]) -> str:
    """The HTML page of a data set with the given sections."""
    title = f"Data set from {manifest['source']}, labels of the {manifest['label_window']}"
    lead = (
        f"{statistics.visits:,} visits of {statistics.patients:,} patients, "
        f"{len(statistics.medications):,} medication classes; fingerprint {manifest['fingerprint']}."
    )
    return html_page(title, lead, contents, _FOOTER)


def sections(manifest: dict[str, Any], statistics: Description, titles: Titles) -> list[Section]:
    """All there is to tell of a data set; `titles` names classes and substances by code."""
    contents = {
        "Cohort": _cohort(manifest),
        "Visits": _visits(manifest, statistics),
        "Patients at their first visit": _patients(statistics),
        "Medications": _medications(statistics, titles),
        "Drug mapping": _mapping(manifest),
        "Splits": _splits(manifest, statistics),
        "Interactions of the prescriptions": _interactions(statistics, titles),
    }
    return [
        Section(heading, tuple(block for block in blocks if not isinstance(block, Table) or block.rows))
        for heading, blocks in contents.items()
    ]


def _cohort(manifest: dict[str, Any]) -> Iterator[Table | Chart]:
    yield bar_chart("Admissions left after each filter", manifest["flow"], "admissions")
    yield manifest_tables.flow(manifest)
    yield manifest_tables.options(manifest)
    yield manifest_tables.left_out(manifest)
    yield manifest_tables.facts(manifest)
    yield manifest_tables.warnings(manifest)


def _visits(manifest: dict[str, Any], statistics: Description) -> Iterator[Table | Chart]:
    per_visit = statistics.codes_per_visit
    told = {"visits per patient": statistics.visits_per_patient}
    told |= {f"{kind} per visit": per_visit[kind] for kind in KINDS}
    told |= {f"labels per visit ({manifest['label_window']})": per_visit["labels"]}
    rows = [(name, found.mean, found.median, found.maximum, found.counts.get(0, 0)) for name, found in told.items()]
    yield Table("Visits and their distinct codes", ("", "mean", "median", "most", "without any"), rows)
    yield _distributions("Visits per patient", {"visits per patient": statistics.visits_per_patient}, "patients")
    yield _distributions("Distinct codes per visit", {f"{kind} per visit": per_visit[kind] for kind in KINDS}, "visits")


def _patients(statistics: Description) -> Iterator[Table | Chart]:
    rows: list[tuple[str, str, int, Share]] = []
    for field, values in statistics.patients_by.items():
        if set(values) == {""}:
            continue  # MIMIC-III tells no calendar year
        name = _NAMES.get(field, field)
        rows += [(name, value, count, Share(count / statistics.patients)) for value, count in _listed(field, values)]
    yield Table("Profile", ("field", "value", "patients", "share"), rows)
    yield bar_chart("Age at the first visit, years", dict(_listed("age", statistics.patients_by["age"])), "patients")


def _listed(field: str, values: Mapping[str, int]) -> list[tuple[str, int]]:
    """A field's values as they are shown: all in order or the most frequent, then the others in one, then none."""
    recorded = {value: count for value, count in values.items() if value}
    shown = sorted(recorded.items()) if field in _IN_ORDER else _most(recorded, "values")
    return shown + ([("not recorded", values[""])] if "" in values else [])


def _most(counts: Mapping[str, int], what: str) -> list[tuple[str, int]]:
    """The most frequent of what stands in order of frequency, then all others as one."""
    rows = list(counts.items())
    others = rows[_MOST_VALUES:]
    together = [(f"{len(others)} other {what}", sum(count for _, count in others))] if others else []
    return rows[:_MOST_VALUES] + together


def _medications(statistics: Description, titles: Titles) -> Iterator[Table | Chart]:
    shares = {code: Share(count / statistics.visits) for code, count in statistics.medications.items()}
    most = dict(list(shares.items())[:_MOST_CLASSES])
    caption = f"The most frequent of {len(shares)} medication classes"
    yield bar_chart(caption, {_short(code, titles): share for code, share in most.items()}, "share of visits")
    rows = [(_bare(code), titles.get(code), statistics.medications[code], share) for code, share in most.items()]
    yield Table(caption, ("class", "name", "visits", "share"), rows)
    above, tail = 0, []
    for name, least in _TAIL.items():
        reached = sum(share >= least for share in shares.values())
        tail.append((name, reached - above))
        above = reached
    yield Table("Classes by share of visits", ("share of visits", "classes"), tail)


def _mapping(manifest: dict[str, Any]) -> Iterator[Table | Chart]:
    coverage = manifest_tables.coverage(manifest)
    shares = {str(name): share for name, _, share in coverage.rows if isinstance(share, Share)}
    yield bar_chart(coverage.caption, shares, "share of prescription rows")
    yield coverage
    yield manifest_tables.unmapped(manifest)


def _splits(manifest: dict[str, Any], statistics: Description) -> Iterator[Table | Chart]:
    samples = {name: split.samples for name, split in statistics.splits.items()}
    yield bar_chart("Samples by split", samples, "samples")
    yield manifest_tables.splits(manifest)
    num_classes = manifest["vocabulary"]["medications"]
    rows = [
        (name, told.mean_labels, Share(told.mean_labels / num_classes), told.distinct_labels, told.mean_prior_visits)
        for name, told in statistics.splits.items()
    ]
    headings = ("split", "labels a sample", "of all classes", "distinct labels", "earlier visits a sample")
    yield Table(f"Labels among the {num_classes:,} classes of the training vocabulary", headings, rows)


def _interactions(statistics: Description, titles: Titles) -> Iterator[str | Table | Chart]:
    yield _DEFINITION
    found = statistics.interactions
    headings = ("between", "listed pairs", "of them met", "pairs in visits", "interacting", "rate", "visits with one")
    rows = [
        (
            level,
            told.listed_pairs,
            told.met_pairs,
            told.pairs,
            told.interacting,
            None if told.rate is None else Score(told.rate),
            Share(told.visits_with_interaction / statistics.visits),
        )
        for level, told in found.items()
    ]
    yield Table("Interaction rate", headings, rows)
    for level, told in found.items():
        if told.interacting:
            yield from _met_interactions(level, told, statistics.visits, titles)


def _met_interactions(
    level: str, found: InteractionStatistics, num_visits: int, titles: Titles
) -> Iterator[Table | Chart]:
    for name, plural, counts in (
        ("severity", "severities", found.by_severity),
        ("source", "sources", found.by_source),
    ):
        rows = [(group, count, Share(count / found.interacting)) for group, count in _most(counts, plural)]
        yield Table(f"Interacting {level} by {name}", (name, "pairs in visits", "share"), rows)
    caption = f"Most frequent interacting {level}"
    shares = {
        f"{_short(pair.code_a, titles, 24)} + {_short(pair.code_b, titles, 24)}": Share(pair.visits / num_visits)
        for pair in found.most_frequent
    }
    yield bar_chart(caption, shares, "share of visits")
    pairs = [
        (_full(pair.code_a, titles), _full(pair.code_b, titles), pair.visits, pair.severity or "–", pair.reason)
        for pair in found.most_frequent
    ]
    yield Table(caption, ("", "with", "visits", "severity", "reason"), pairs)


# --- names and drawings ----------------------------------------------------------------------------------------------


def _bare(code: str) -> str:
    return code.removeprefix("ATC:")


def _short(code: str, titles: Titles, width: int = 44) -> str:
    """A name that fits beside a bar; the code keeps it distinct."""
    return f"{textwrap.shorten(titles.get(code, ''), width, placeholder=' …')} {_bare(code)}".strip()


def _full(code: str, titles: Titles) -> str:
    return f"{titles[code]} ({_bare(code)})" if code in titles else _bare(code)


def _distributions(title: str, distributions: Mapping[str, Distribution], of: str) -> Chart:
    """One panel of columns above another."""

    def draw(figure: Figure) -> None:
        panels: list[list[Axes]] = figure.subplots(len(distributions), 1, squeeze=False).tolist()
        for (axes,), (name, distribution) in zip(panels, distributions.items(), strict=True):
            columns(axes, distribution.counts, _almost_all(distribution))
            axes.set_xlabel(name)
            axes.set_ylabel(of)

    told = "; ".join(
        f"{name}, mean {found.mean:.1f}, median {found.median:g}, most {found.maximum}"
        for name, found in distributions.items()
    )
    return chart(title, f"Columns of {of} by {told}.", draw, height=0.6 + 1.8 * len(distributions))


def _almost_all(distribution: Distribution) -> int:
    """The least number that 99% do not exceed, and 10 at least: the few above stand together in one column."""
    total, reached = sum(distribution.counts.values()), 0
    for number, count in distribution.counts.items():
        reached += count
        if reached >= 0.99 * total:
            return max(number, 10)
    raise AssertionError("the counts add up to their total")

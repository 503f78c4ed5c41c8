"""One self-contained HTML page from headed sections of prose, tables and charts: no script, font or link to fetch."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = "#2f6690", "#5f6b76"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, and in the reader's own font
    "text.parse_math": False,  # a `$` in a name is a dollar
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e7ea",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}
_WIDTH = 7.5  # inches
_METADATA = ("Creator", "Date", "Format", "Type")  # what matplotlib would say of itself


class Share(float):
    """A number from 0 to 1 that is shown in per cent."""


class Score(float):
    """A number from 0 to 1 that is shown with four decimals, as the literature shows its metrics."""


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, all shown as the figure's own kind is."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        # Where a cell is narrow the interval goes to a second line, unbroken.
        return f"{cell_text(self.value)} [{cell_text(self.low)},\N{NO-BREAK SPACE}{cell_text(self.high)}]"


class Difference(Interval):
    """What one figure has over another; a star marks an interval without zero."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        sign = "+" if self.value > 0 else ""
        return f"{sign}{super().__str__()}{chr(0xA0) + '*' if self.excludes_zero else ''}"


Cell = str | int | float | Interval | None


def cell_text(cell: Cell) -> str:
    """A table's cell as it is read: thousands apart, two decimals; a dash for what has no value."""
    match cell:
        case None:
            return "–"
        case str() | Interval():
            return str(cell)
        case Share():
            return _per_cent(cell)
        case Score():
            return f"{cell:.4f}"
        case int():
            return f"{cell:,}"
        case _:
            return f"{cell:,.2f}"


def _per_cent(share: Share) -> str:
    """With one decimal; what is not all or nothing is not rounded to it."""
    match f"{share:.1%}":
        case "0.0%" if share > 0:
            return "<0.1%"
        case "100.0%" if share < 1:
            return ">99.9%"
        case text:
            return text


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; a column of numbers is set to the right."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    @property
    def is_numeric(self) -> list[bool]:
        """For each column, whether it holds numbers alone."""
        return [all(not isinstance(row[column], str) for row in self.rows) for column in range(len(self.columns))]


@dataclass(frozen=True)
class Chart:
    """A drawing as SVG; `description` tells in words what it shows, for those who cannot see it.

    Titles are distinct on a page: the names of an SVG's parts are made from them.
    """

    title: str
    description: str
    svg: str


Block = str | Table | Chart


@dataclass(frozen=True)
class Folded:
    """What is shown once the reader opens it, in order."""

    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order; text is a paragraph."""

    heading: str
    blocks: tuple[Block | Folded, ...]


def html_page(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The page as one document."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["cell_text"] = cell_text
    template = environment.from_string(resources.files("leader_platform").joinpath("report.html").read_text("utf-8"))
    return template.render(title=title, lead=lead, sections=sections, footer=footer)


def chart(title: str, description: str, draw: Callable[[Figure], object], height: float = 3.0) -> Chart:
    """What `draw` puts on a figure of the given height in inches, of 72 points each."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(drawn, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    return Chart(title, description, _inline(drawn.getvalue(), description))


def bar_chart(title: str, values: Mapping[str, int | float], unit: str) -> Chart:
    """Horizontal bars from above to below, each with its value behind it."""
    texts = {name: cell_text(value) for name, value in values.items()}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        drawn = axes.barh(list(values), list(values.values()), color=BLUE)
        axes.bar_label(drawn, list(texts.values()), padding=3, color=GREY)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01)
        axes.spines.bottom.set_visible(False)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.set_xlabel(unit, loc="left")

    told = "; ".join(f"{name} {text}" for name, text in texts.items())
    return chart(title, f"Bars of {unit}: {told}.", draw, height=0.4 + 0.22 * len(values))


def columns(axes: Axes, counts: Mapping[int, int], most: int) -> None:
    """Vertical bars over whole numbers up to `most`; all that lies above stands together in one more."""
    from matplotlib.ticker import MaxNLocator

    lowest, highest = min(counts), min(most, max(counts))
    shown = {number: counts.get(number, 0) for number in range(lowest, highest + 1)}
    names = {int(tick): f"{tick:.0f}" for tick in MaxNLocator(14, integer=True).tick_values(lowest, highest)}
    if max(counts) > most:
        shown[most + 1] = sum(count for number, count in counts.items() if number > most)
        room = len(shown) / 14
        names = {tick: name for tick, name in names.items() if tick < most + 1 - room} | {most + 1: f"> {most}"}
    axes.bar(list(shown), list(shown.values()), width=0.9, color=BLUE)
    ticks = [tick for tick in names if tick in shown]
    axes.set_xticks(ticks, [names[tick] for tick in ticks])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")


def _inline(svg: str, description: str) -> str:
    """The `svg` element of a document, without the numbered names of its parts, which would stand twice on a page."""
    element = re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :])
    return element.replace(">", f' role="img"><title>{escape(description)}</title>', 1)

"""Charts that compare models: bars and differences with their intervals, and curves, each told in words too."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING

from leader_platform.report import BLUE, GREY, Chart, Difference, Interval, cell_text, chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours, told apart by colour-blind readers too; without yellow, which white paper swallows.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1d2429")
_INK = _COLOURS[-1]
_DASHES = ("-", "--", ":")
_BAR_INCHES = 0.11
_NAME_LENGTH = 34


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a dash for each name; the first seven differ in colour."""
    looks = cycle((colour, dash) for dash, colour in product(_DASHES, _COLOURS))
    return dict(zip(names, looks, strict=False))


def interval_bars(
    title: str, unit: str, categories: Mapping[str, Mapping[str, Interval | None]], colours: Mapping[str, str]
) -> Chart:
    """Horizontal bars with whiskers: a block a category, in it a bar for each of `colours` that has a figure."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        step = 1 / (len(colours) + 1.5)
        for row, (name, colour) in enumerate(colours.items()):
            shift = (row + 0.5 - len(colours) / 2) * step
            found = {place + shift: told for place, bars in enumerate(categories.values()) if (told := bars.get(name))}
            axes.barh(list(found), [told.value for told in found.values()], height=step, color=colour, label=name)
            ends = [told.low for told in found.values()], [told.high for told in found.values()]
            for ink, width in (("white", 2.5), (_INK, 1.0)):  # a whisker with an edge is seen on any bar
                axes.hlines(list(found), *ends, colors=ink, linewidth=width)
        axes.set_yticks(range(len(categories)), [_short(name) for name in categories])
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.grid(axis="x")
        axes.tick_params(left=False)
        axes.set_xlabel(unit)
        _legend(figure, axes)

    told = "; ".join(f"{name}: {_told(bars)}" for name, bars in categories.items())
    num_bars = len(categories) * (len(colours) + 1.5)
    return chart(title, f"Bars of {unit} with 95% intervals. {told}.", draw, height=0.9 + _BAR_INCHES * num_bars)


def forest(title: str, unit: str, panels: Mapping[str, Mapping[str, Difference | None]]) -> Chart:
    """Differences with their intervals around a line at zero, a panel beside another; all panels have the same rows."""
    names = list(next(iter(panels.values())))

    def draw(figure: Figure) -> None:
        drawn: list[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0].tolist()
        for axes, (panel, differences) in zip(drawn, panels.items(), strict=True):
            for place, difference in enumerate(differences.values()):
                if difference is not None:
                    _draw_difference(axes, place, difference)
            axes.axvline(0, color=GREY, linewidth=1)
            if len(panels) > 1:
                axes.set_title(panel, fontsize=9)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(axis="x")
            axes.tick_params(left=False)
            axes.locator_params(axis="x", nbins=5 if len(panels) < 3 else 3)
        drawn[0].set_yticks(range(len(names)), [_short(name, 60) for name in names])
        figure.supxlabel(f"{unit}; filled where the interval excludes zero", fontsize=9, color=GREY)

    told = ". ".join(f"{panel}: {_told(differences)}" for panel, differences in panels.items())
    described = f"Differences in {unit} with 95% intervals; a star marks an interval that excludes zero. {told}."
    return chart(title, described, draw, height=1.0 + 0.24 * len(names))


def _draw_difference(axes: Axes, place: int, difference: Difference) -> None:
    colour = BLUE if difference.excludes_zero else GREY
    axes.hlines(place, difference.low, difference.high, color=colour, linewidth=1.5)
    filled = colour if difference.excludes_zero else "white"
    axes.plot([difference.value], [place], "o", markersize=5, markeredgecolor=colour, markerfacecolor=filled)


def curves(title: str, description: str, axis_names: tuple[str, str], lines: Mapping[str, Points]) -> Chart:
    """Lines over one pair of axes, of shares from 0 to 1."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (name, points), (colour, dash) in zip(lines.items(), styles(lines).values(), strict=True):
            axes.plot(*_transposed(points), dash, color=colour, label=name, linewidth=1.4)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=axis_names[0], ylabel=axis_names[1])
        axes.grid()
        _legend(figure, axes)

    return chart(title, description, draw, height=4.2)


def diagonals(title: str, description: str, axis_names: tuple[str, str], lines: Mapping[str, Points]) -> Chart:
    """Small panels, one a line, each with the diagonal that a perfect line would follow; of shares from 0 to 1."""
    num_rows = math.ceil(len(lines) / 4)

    def draw(figure: Figure) -> None:
        panels: list[Axes] = figure.subplots(num_rows, 4, sharex=True, sharey=True, squeeze=False).ravel().tolist()
        for axes in panels[len(lines) :]:
            axes.set_axis_off()
        for axes, (name, points) in zip(panels, lines.items(), strict=False):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
            axes.plot(*_transposed(points), "o-", color=BLUE, markersize=3, linewidth=1.2)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            axes.set_title(textwrap.fill(name, 22), fontsize=9)
        figure.supxlabel(axis_names[0], fontsize=9, color=GREY)
        figure.supylabel(axis_names[1], fontsize=9, color=GREY)

    return chart(title, description, draw, height=0.6 + 2.0 * num_rows)


def histories(title: str, description: str, over: str, panels: Mapping[str, Mapping[str, Points]]) -> Chart:
    """What training told as it went on: a panel beside another, in each the lines of the same names."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))

    def draw(figure: Figure) -> None:
        drawn: list[Axes] = figure.subplots(1, len(panels), squeeze=False)[0].tolist()
        looks = styles(names)
        for axes, (panel, lines) in zip(drawn, panels.items(), strict=True):
            for name, points in lines.items():
                colour, dash = looks[name]
                axes.plot(*_transposed(points), dash, color=colour, label=name, linewidth=1.2)
            axes.set(xlabel=over, ylabel=panel)
            axes.grid()
        _legend(figure, drawn[0])

    return chart(title, description, draw, height=2.9)


def _transposed(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the drawing, where it hides nothing; none for a single name."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=8)


def _told(figures: Mapping[str, Interval | None]) -> str:
    return ", ".join(f"{name} {cell_text(figure)}" for name, figure in figures.items())


def _short(name: str, width: int = _NAME_LENGTH) -> str:
    return textwrap.shorten(name, width, placeholder=" …")

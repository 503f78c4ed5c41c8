"""The page of a report: whole in one file, safe with any text, readable without seeing the charts."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure
from support.pages import Outline, assert_fetches_nothing

from leader_platform.report import (
    Cell,
    Chart,
    Difference,
    Folded,
    Interval,
    Score,
    Section,
    Share,
    Table,
    bar_chart,
    cell_text,
    chart,
    columns,
    html_page,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@pytest.fixture(scope="module")
def page() -> str:
    table = Table("Splits", ("split", "samples", "share"), [("train", 1234, Share(0.8)), ("<test>", 309, Share(0.2))])
    bars = bar_chart("Samples", {"train & more": 1234, "$5 <b>": 309}, "samples")
    again = bar_chart("Samples again", {"train & more": 1234, "$5 <b>": 309}, "samples")
    same = Table("Samples again", ("split",), [("train",)])
    sections = [Section("First", ("A paragraph <script>.", table, bars)), Section("Second", (again, same))]
    return html_page("A title & more", "A lead.", sections, "A footer.")


def test_a_page_is_well_formed_and_in_order(page: str) -> None:
    outline = Outline(page)
    assert [outline.count(tag) for tag in ("h1", "h2", "table", "figure", "svg", "footer")] == [1, 2, 2, 2, 2, 1]
    assert "A paragraph &lt;script&gt;." in page
    assert page.index("First") < page.index("Splits") < page.index("Second") < page.index("A footer.")


def test_a_page_fetches_nothing(page: str) -> None:
    assert_fetches_nothing(page)


def test_no_name_stands_twice_on_a_page(page: str) -> None:
    names = re.findall(r' id="([^"]+)"', page)
    assert names
    assert len(names) == len(set(names))


def test_a_title_that_a_chart_has_told_is_not_told_again_by_its_table(page: str) -> None:
    assert "<caption>Splits</caption>" in page
    assert page.count(">Samples again<") == 1
    assert '<table aria-label="Samples again">' in page


def test_a_table_sets_its_numbers_to_the_right(page: str) -> None:
    assert '<td class="number">1,234</td>' in page
    assert '<td class="number">80.0%</td>' in page
    assert "<td>&lt;test&gt;</td>" in page
    assert '<th scope="col" class="number">samples</th>' in page


def test_a_chart_tells_in_words_what_it_shows(page: str) -> None:
    assert "<svg" in page
    assert 'role="img"><title>Bars of samples: train &amp; more 1,234; $5 &lt;b&gt; 309.</title>' in page


def test_a_charts_text_stays_text_and_equal_charts_are_equal() -> None:
    first, second = (bar_chart("Rates", {"$a$ & <b>": 0.5}, "share") for _ in range(2))
    assert first == second
    assert "$a$ &amp; &lt;b&gt;</text>" in first.svg


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "–"),
        ("as it is", "as it is"),
        (1234567, "1,234,567"),
        (1234.567, "1,234.57"),
        (0, "0"),
        (Share(0.1234), "12.3%"),
        (Share(0.0), "0.0%"),
        (Share(0.0002), "<0.1%"),
        (Share(0.0006), "0.1%"),
        (Share(0.9994), "99.9%"),
        (Share(0.9998), ">99.9%"),
        (Share(1.0), "100.0%"),
        (Score(0.04659), "0.0466"),
        (Interval(Score(0.5), Score(0.25), Score(0.75)), "0.5000 [0.2500,\xa00.7500]"),
        (Interval(22.0, 21.5, 22.25), "22.00 [21.50,\xa022.25]"),
        (Difference(0.5, 0.25, 0.75), "+0.50 [0.25,\xa00.75]\xa0*"),
        (Difference(-0.5, -0.75, -0.25), "-0.50 [-0.75,\xa0-0.25]\xa0*"),
        (Difference(0.5, -0.25, 0.75), "+0.50 [-0.25,\xa00.75]"),
        (Difference(0.0, 0.0, 0.0), "0.00 [0.00,\xa00.00]"),
    ],
)
def test_cells_are_written_for_reading(cell: Cell, text: str) -> None:
    assert cell_text(cell) == text


def test_a_column_with_one_word_is_no_column_of_numbers() -> None:
    table = Table("", ("a", "b", "c"), [("x", 1, None), ("y", "none", 2.5)])
    assert table.is_numeric == [False, False, True]


def test_what_is_folded_is_on_the_page_behind_its_summary() -> None:
    folded = Folded("More <figures>", ("A word.", Table("Inner", ("a",), [(Interval(1.0, 0.0, 2.0),)])))
    page = html_page("Title", "Lead.", [Section("First", (folded,))], "Footer.")
    assert page.startswith("<!DOCTYPE html>")
    assert Outline(page).count("details") == 1
    inside = page[page.index("<details>") : page.index("</details>")]
    assert "<summary>More &lt;figures&gt;</summary>" in inside
    assert "A word." in inside
    assert '<td class="number">1.00 [0.00,\xa02.00]</td>' in inside


def drawn(counts: dict[int, int], most: int) -> tuple[list[float], list[str]]:
    axes: Axes = Figure().subplots()
    columns(axes, counts, most)
    heights = [patch.get_height() for patch in axes.patches]
    return heights, [label.get_text() for label in axes.get_xticklabels()]


def test_columns_stand_for_each_number_and_gather_the_few_above() -> None:
    assert drawn({1: 5, 3: 2}, most=10) == ([5, 0, 2], ["1", "2", "3"])
    heights, labels = drawn({1: 5, 2: 4, 8: 1, 9: 2}, most=3)
    assert heights == [5, 4, 0, 3]
    assert labels[-1] == "> 3"


def test_any_drawing_can_be_a_chart() -> None:
    line = chart("Curve", "A line.", lambda figure: figure.subplots().plot([0, 1], [1, 0]))
    assert isinstance(line, Chart)
    assert line.svg.startswith("<svg")
    assert "<title>A line.</title>" in line.svg


def test_matplotlib_is_not_imported_before_a_chart_is_drawn() -> None:
    program = (
        "import sys, leader_cli.main, leader_platform.data.describe_report\n"
        "print(sorted({'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"

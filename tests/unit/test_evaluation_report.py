"""The page of an evaluation: whole, safe with any text, and true to the figures it is made from."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from support.evaluations import GROUPS, MODELS, PROTOCOL, evaluation
from support.pages import Outline, assert_fetches_nothing

from leader_platform import report_charts as charts
from leader_platform.evaluation_report import evaluation_page
from leader_platform.evaluation_tables import kinds_of_groups, paired_table, summary_tables
from leader_platform.report import Difference, Interval, Score
from leader_platform.training_report import Costs, Histories

CURVES: Histories = {
    "fold-0/teacher": [
        {"step": 5, "loss": 0.5, "tokens_per_second": 400.0},
        {"step": 10, "loss": 0.4, "tokens_per_second": 410.0},
        {"step": 10, "validation_prauc": 0.625},
        {"step": 15, "loss": 0.3125, "tokens_per_second": 410.0},
        {"step": 15, "validation_prauc": 0.6125},
    ],
    "fold-0/student": [{"epoch": 1, "loss": 0.75, "validation_prauc": 0.5}],
    "fold-1/student": [{"epoch": 1, "loss": 0.875, "validation_prauc": 0.5625}],
}
COSTS: Costs = {
    "popularity": {},
    "student": {"seconds": 12.5, "parameters": 500_000.0, "seconds_per_sample": 0.0025},
    "teacher": {"seconds": 1800.0, "parameters": 134_000_000, "seconds_per_sample": 0.5, "peak_memory_gb": None},
}
SECTIONS = [
    "Protocol",
    "Models",
    "Differences between models",
    "Precision and recall",
    "Calibration",
    "Groups",
    "Medication classes",
    "Interactions",
    "Training",
    "Cost",
]


@pytest.fixture(scope="module")
def judged() -> tuple[dict[str, Any], dict[str, Any]]:
    return evaluation()


@pytest.fixture(scope="module")
def page(judged: tuple[dict[str, Any], dict[str, Any]]) -> str:
    return evaluation_page(*judged, CURVES, COSTS)


@pytest.fixture
def small() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two models, whose figures a test may change."""
    return copy.deepcopy(evaluation(("popularity", "student"), ("all", "first_visit", "gender=F"), num_classes=6))


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def section(page: str, heading: str) -> str:
    start = page.index(f"<h2>{heading}</h2>")
    return page[start : page.index("</section>", start)]


def table(page: str, caption: str) -> list[list[str]]:
    """The rows of the table with a caption, or under the chart of the same title."""
    start = re.search(f'<caption>{caption}|aria-label="{caption}"', page)
    assert start, caption
    body = page[start.start() : page.index("</table>", start.start())]
    rows = re.findall("<tr>(.*?)</tr>", body, flags=re.DOTALL)
    return [[cell.replace("\xa0", " ") for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def test_a_page_has_all_that_is_asked_in_order_and_fetches_nothing(page: str) -> None:
    assert headings(page) == SECTIONS
    assert_fetches_nothing(page)
    assert "90 samples of 40 patients, 140 medication classes, labels of the whole stay." in page


def test_a_page_of_seven_models_and_many_groups_and_classes_stays_small(page: str) -> None:
    assert len(page.encode()) < 3_000_000


def test_every_chart_tells_in_words_what_it_shows(page: str) -> None:
    outline = Outline(page)
    described = re.findall(r'role="img"><title>([^<]+)</title>', page)
    assert outline.count("svg") == outline.count("figure") == len(described)
    assert all(len(text) > 40 for text in described)


def test_no_name_stands_twice_on_a_page(page: str) -> None:
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_text_of_the_data_is_escaped(page: str) -> None:
    assert "&lt;i&gt;Class&lt;/i&gt; ATC:0000 &amp; others (0000)" in page
    assert "race &lt;b&gt;other &amp; more" in page
    assert not {"i", "b"} & {tag for tag, _ in Outline(page).elements}


def test_every_model_has_its_figures_with_their_intervals(
    page: str, judged: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    value, low, high = judged[0]["models"]["hidden_state_ridge"]["all"]["prauc"]
    rows = table(page, "All samples")
    assert rows[0] == ["model", "PRAUC", "AUROC", "Jaccard", "F1"]
    assert [row[0] for row in rows[1:]] == [name.replace("_", " ") for name in MODELS]
    assert rows[4][1] == f"{value:.4f} [{low:.4f}, {high:.4f}]"


def test_a_metric_without_meaning_is_a_dash(small: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, details = small
    result["models"]["student"]["all"]["auroc"] = None
    result["models"]["student"]["gender=F"]["prauc"] = None
    result["prescriptions"]["first_visit"]["interaction_rate"] = None
    result["paired"]["student-popularity"]["prauc"] = None
    page = evaluation_page(result, details, {}, {})
    assert table(page, "All samples")[2][2] == "–"
    assert re.search(r"sex F \(\d+\): popularity 0\.\d{4} \[[^]]*\], student –", page)


def test_the_protocol_is_told_in_words(small: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, details = small
    told = section(evaluation_page(result, details, {}, {}), "Protocol")
    assert "cut into 5 folds" in told
    assert "trained once, with seed 0" in told
    assert "Every visit is a sample" in told
    assert "from 20 bootstrap replicates that draw patients" in told
    protocol = {name: value for name, value in PROTOCOL.items() if "fold" not in name}
    result["protocol"] = protocol | {"name": "split", "seeds": [0, 1, 2], "samples": "last"}
    told = section(evaluation_page(result, details, {}, {}), "Protocol")
    assert "folds" not in told
    assert "patients of the test split" in told
    assert "trained with 3 seeds (0, 1, 2)" in told
    assert "Each patient&#39;s last visit is a sample" in told


def test_what_was_not_measured_is_left_out(small: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, _ = small
    result |= {"paired": {}, "paired_groups": {}}
    assert headings(evaluation_page(result, {}, {}, {"student": {}})) == [
        "Protocol",
        "Models",
        "Calibration",
        "Groups",
        "Interactions",
    ]


def test_a_difference_is_marked_where_its_interval_excludes_zero(small: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, _ = small
    result["paired"] = {
        "student-popularity": {"prauc": [0.03, 0.01, 0.05], "jaccard": [-0.03, -0.05, -0.01], "f1": None},
        "student-student_without_teacher": {"prauc": [0.03, -0.01, 0.05], "jaccard": [0.0, 0.0, 0.0], "f1": None},
    }
    assert [tuple(map(str, row)) for row in paired_table(result).rows] == [
        ("student − popularity", "+0.0300 [0.0100,\xa00.0500]\xa0*", "-0.0300 [-0.0500,\xa0-0.0100]\xa0*", "None"),
        ("student − student without teacher", "+0.0300 [-0.0100,\xa00.0500]", "0.0000 [0.0000,\xa00.0000]", "None"),
    ]


def test_a_forest_fills_the_marks_of_intervals_that_exclude_zero() -> None:
    differences = {
        "above": Difference(0.03, 0.01, 0.05),
        "below": Difference(-0.03, -0.05, -0.01),
        "about": Difference(0.03, -0.01, 0.05),
        "none": None,
    }
    drawn = charts.forest("Forest", "PRAUC", {"all": differences})
    assert drawn.svg.count("fill: #2f6690; stroke: #2f6690") == 2
    assert drawn.svg.count("fill: #ffffff; stroke: #5f6b76") == 1
    assert "about +0.03 [-0.01,\xa00.05], none –." in drawn.description


def test_bars_tell_every_figure_and_leave_out_what_has_none() -> None:
    bars = {"<group>": {"one": Interval(Score(0.5), Score(0.4), Score(0.45)), "two": None}}
    drawn = charts.interval_bars("Bars", "PRAUC", bars, {"one": "#111111", "two": "#222222"})
    assert drawn.description == "Bars of PRAUC with 95% intervals. <group>: one 0.5000 [0.4000,\xa00.4500], two –."
    assert "&lt;group&gt;" in drawn.svg


def test_the_first_models_differ_in_colour_and_all_in_colour_or_dash() -> None:
    looks = list(charts.styles([str(number) for number in range(20)]).values())
    assert len({colour for colour, _ in looks[:7]}) == 7
    assert len(set(looks)) == 20


def test_a_chart_shows_the_largest_groups_and_its_table_all(page: str) -> None:
    races = [group for group in GROUPS if group.startswith("race=")]
    shown = re.findall("<title>Bars of PRAUC[^<]*</title>", section(page, "Groups"))[3]
    assert len(re.findall(r"race .*? \(\d+\):", shown)) == 8
    rows = table(page, "Metrics by race")[1:]
    assert len(rows) == len(races) * (1 + len(MODELS))  # the prescriptions' own interaction rate is a row of each


def test_groups_stand_by_what_makes_them(judged: tuple[dict[str, Any], dict[str, Any]]) -> None:
    kinds = kinds_of_groups(judged[0])
    assert list(kinds) == ["visits", "sex", "age", "race", "insurance"]
    assert kinds["visits"] == ["all", "first_visit", "multi_visit", "unseen_diagnoses"]


def test_the_prescriptions_stand_before_the_models_in_every_kind_of_visit(
    page: str, judged: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    rows = table(page, "Interaction rate")[1:]
    own = judged[0]["prescriptions"]["all"]["interaction_rate"][0]
    assert rows[0][:4] == ["all", "prescriptions", "90", rows[1][3]]
    assert rows[0][4].startswith(f"{own:.4f} [")
    assert [row[1] for row in rows].count("prescriptions") == 4


def test_classes_stand_by_size_the_largest_at_once_and_all_when_opened(page: str) -> None:
    first, opened = section(page, "Medication classes").split("<details>")
    labels = [int(row[1]) for row in table(first, "Average precision of the 20 largest classes")[1:]]
    assert len(labels) == 20
    for caption in ("Average precision", "Precision", "Recall"):
        of_all = [int(row[1]) for row in table(opened, caption)[1:]]
        assert len(of_all) == 140
        assert of_all == sorted(of_all, reverse=True)
        assert of_all[:20] == labels


def test_a_training_ends_with_its_loss_and_its_best_validation(page: str) -> None:
    assert table(page, "Where the trainings ended") == [
        ["model", "training", "", "last", "loss there", "best PRAUC", "at"],
        ["teacher", "fold-0", "step", "15", "0.3125", "0.6250", "10"],
        ["student", "fold-0", "epoch", "1", "0.7500", "0.5000", "1"],
        ["student", "fold-1", "epoch", "1", "0.8750", "0.5625", "1"],
    ]
    assert section(page, "Training").count("<svg") == 2


def test_a_training_without_validation_has_a_chart_of_its_loss(small: tuple[dict[str, Any], dict[str, Any]]) -> None:
    told = section(evaluation_page(*small, {"teacher": [{"step": 5, "loss": 0.5}], "student": []}, {}), "Training")
    assert "The loss over the step" in told
    assert table(told, "Where the trainings ended")[1:] == [["teacher", "teacher", "step", "5", "0.5000", "–", "–"]]


def test_cost_stands_side_by_side_in_units_for_reading(page: str) -> None:
    assert table(page, "Cost of each model") == [
        ["model", "training, s", "parameters", "answering, ms a sample"],
        ["popularity", "–", "–", "–"],
        ["student", "12.50", "500,000", "2.50"],
        ["teacher", "1,800.00", "134,000,000", "500.00"],
    ]
    assert "teacher is and takes: 0.4% of the parameters, 0.5% of the time for an answer." in page


def test_a_terminal_shows_the_models_and_their_differences(judged: tuple[dict[str, Any], dict[str, Any]]) -> None:
    models, differences = summary_tables(judged[0])
    assert len(models.rows) == 4 * (len(MODELS) + 1)
    assert [row[0] for row in differences.rows][:2] == ["student − popularity", "student − previous visit"]

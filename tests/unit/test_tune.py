"""What a search draws, and what it refuses before anything starts. No Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from leader_jobs.pipeline import STAGES, stage_key
from leader_jobs.requests import Request
from leader_jobs.tune import check, draw_settings, with_settings
from leader_platform import storage
from leader_platform.artifacts import Run
from leader_platform.config import LeaderConfig, StudentConfig, TuneConfig
from leader_platform.data.dataset import FORMAT_VERSION, PreparedData
from leader_platform.errors import UserError
from leader_platform.settings import load_config

DEFAULT = LeaderConfig()
SEARCH = TuneConfig(
    uniform={"dropout": (0.1, 0.2)},
    loguniform={"learning_rate": (1e-4, 1e-2), "alignment_weight": None},
    choice={"width": (16, 24)},
)


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    described = {"format_version": FORMAT_VERSION, "fingerprint": "f", "flow": {}}
    storage.write_json(str(tmp_path / "data" / "manifest.json"), described)
    return PreparedData(str(tmp_path / "data"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "run"))


def make_features(run: Run, data: PreparedData) -> None:
    for name in ("teacher", "features", "titles"):
        with run.product(STAGES[name].product, stage_key(name, data, DEFAULT), DEFAULT, {}):
            pass


def test_the_first_trial_has_the_configurations_own_settings() -> None:
    student = StudentConfig(dropout=0.3, width=32)
    first = draw_settings(student, SEARCH, 3)[0]
    assert first == {"dropout": 0.3, "learning_rate": 5e-4, "width": 32}
    assert with_settings(student, first) == student


def test_settings_are_drawn_from_their_ranges() -> None:
    drawn = draw_settings(StudentConfig(), SEARCH, 400)[1:]
    assert {settings["width"] for settings in drawn} == {16, 24}
    assert all(0.1 <= settings["dropout"] <= 0.2 for settings in drawn)
    rates = [settings["learning_rate"] for settings in drawn]
    assert 1e-4 <= min(rates) < max(rates) <= 1e-2
    # Half of a range of two orders of magnitude lies in each.
    assert 0.4 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.6


def test_a_search_is_repeated_by_its_seed() -> None:
    student = StudentConfig()
    assert draw_settings(student, SEARCH, 5) == draw_settings(student, SEARCH, 5)
    other = SEARCH.model_copy(update={"seed": 1})
    assert draw_settings(student, SEARCH, 5)[1:] != draw_settings(student, other, 5)[1:]


def test_settings_that_do_not_fit_each_other_are_told() -> None:
    with pytest.raises(UserError, match=r"may draw .*width=16.* heads \(12\) must divide width \(16\)"):
        draw_settings(StudentConfig(heads=12, width=24), SEARCH, 9)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("tune.choice.wdith=[64]", "no setting student.wdith"),
        ("tune.uniform.dropout=[0, 1.5]", "student.dropout cannot be 1.5"),
        ("tune.choice.width=[33]", "student.width cannot be 33"),
        ("tune.choice.width=[]", "student.width has no values"),
        ("tune.loguniform.learning_rate=[0.01, 0.001]", "learning_rate cannot be searched from 0.01 to 0.001"),
        ("tune.loguniform.alignment_weight=[0, 1]", "alignment_weight cannot be searched from 0 to 1"),
        ("tune.uniform.heads=[1, 4]", "student.heads takes no real numbers"),
        ("tune.choice.title_size=[32]", "student.title_size is the same for all trials"),
        ("tune.choice.dropout=[0.1]", "student.dropout is searched in two ways"),
    ],
)
def test_a_range_that_cannot_be_searched_is_named(setting: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_config(DEFAULT, None, [setting])


def test_a_setting_is_searched_in_another_way_by_null() -> None:
    changed = load_config(DEFAULT, None, ["tune.uniform.dropout=null", "tune.choice.dropout=[0.1, 0.3]"])
    assert {settings["dropout"] for settings in draw_settings(changed.student, changed.tune, 30)} == {0.1, 0.3}


def test_a_search_needs_a_trial(data: PreparedData, run: Run) -> None:
    with pytest.raises(UserError, match="search of 0 trials"):
        check(data, run, DEFAULT, 0, resume=False, only=False)


def test_missing_features_are_made_first_or_refused(data: PreparedData, run: Run) -> None:
    assert check(data, run, DEFAULT, 5, resume=False, only=False) == ["teacher", "features", "titles"]
    with pytest.raises(UserError, match=f"leader train --stage distill --data {data.uri} --run {run.uri}"):
        check(data, run, DEFAULT, 5, resume=False, only=True)
    make_features(run, data)
    assert check(data, run, DEFAULT, 5, resume=False, only=True) == []


def test_nothing_to_go_on_with_is_told(data: PreparedData, run: Run) -> None:
    make_features(run, data)
    with pytest.raises(UserError, match=r"no interrupted search .* 5 trials .* leave out --resume"):
        check(data, run, DEFAULT, 5, resume=True, only=False)


def test_the_dashboard_names_a_search() -> None:
    assert Request(kind="tune", config=DEFAULT, data="/d", run="/r", trials=3).name == "leader tune"

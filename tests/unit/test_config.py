"""The configuration: where values come from, and the sentence for each wrong one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError

from leader_platform.config import LeaderConfig, StudentConfig, fingerprint, to_yaml
from leader_platform.errors import UserError
from leader_platform.recipes import RECIPES, recipe
from leader_platform.settings import load_config

DEFAULT = LeaderConfig()


def failure(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_config(DEFAULT, file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "settings.yaml").write_text(text)
    return tmp_path / "settings.yaml"


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_survives_yaml(tmp_path: Path, name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert load_config(DEFAULT, write(tmp_path, to_yaml(config))) == config


def test_nothing_changed_is_the_base() -> None:
    assert load_config(recipe("quickstart")) == recipe("quickstart")


def test_an_override_changes_its_setting_alone() -> None:
    config = load_config(DEFAULT, None, ["student.width=128"])
    assert config.student.width == 128
    assert config.model_copy(update={"student": DEFAULT.student}) == DEFAULT
    assert config.student.model_copy(update={"width": 64}) == DEFAULT.student


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("data.label_window_hours=24", "data", "label_window_hours", 24.0),
        ("data.label_window_hours=null", "data", "label_window_hours", None),
        ("data.require_procedures=true", "data", "require_procedures", True),
        ("teacher.learning_rate=1e-4", "teacher", "learning_rate", 1e-4),
        ("teacher.backbone=org/model=7b", "teacher", "backbone", "org/model=7b"),
        ("student.profile_fields=[age, race]", "student", "profile_fields", ("age", "race")),
        ("student.profile_fields=[]", "student", "profile_fields", ()),
    ],
)
def test_values_of_overrides_are_yaml(override: str, section: str, name: str, value: object) -> None:
    assert getattr(getattr(load_config(DEFAULT, None, [override]), section), name) == value


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, "student: {width: 32, heads: 2}\n")
    config = load_config(recipe("quickstart"), file, ["student.width=16", "student.width=8"])
    assert (config.student.width, config.student.heads) == (8, 2)
    assert config.student.patience == recipe("quickstart").student.patience


def test_a_file_may_begin_with_a_recipe(tmp_path: Path) -> None:
    config = load_config(DEFAULT, write(tmp_path, "recipe: paper-mimic3\nstudent: {width: 32}\n"))
    assert config == recipe("paper-mimic3").model_copy(update={"student": config.student})
    assert (config.student.width, config.student.batch_size) == (32, 4)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(DEFAULT, write(tmp_path, "# nothing\n")) == DEFAULT


def test_choosing_a_recipe_by_override_is_not_just_a_name() -> None:
    """Either it takes the recipe, or it is refused; a configuration must not bear the name of another one."""
    with suppress(UserError):
        assert load_config(DEFAULT, None, ["recipe=quickstart"]) == recipe("quickstart")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("student.width=two", ("student.width", "'two'")),
        ("student.width=2", ("student.width", "2")),
        ("teacher=3", ("teacher", "3")),
        ("student.width.deep=1", ("student.width",)),
        ("data.sample_visits=first", ("data.sample_visits", "'first'", "every")),
        ("teacher.learning_rate=-1", ("teacher.learning_rate", "-1")),
    ],
)
def test_a_wrong_value_is_named_with_its_key(override: str, parts: tuple[str, ...]) -> None:
    message = failure(override)
    assert all(part in message for part in parts)


@pytest.mark.parametrize("override", ["student.wdith=3", "wdith=3", "teacher.lora.rank=3"])
def test_an_unknown_key_is_named(override: str) -> None:
    message = failure(override)
    assert "There is no setting" in message
    assert override.partition("=")[0].removesuffix(".rank") in message


@pytest.mark.parametrize("override", ["student.width", "=3", ""])
def test_an_override_without_key_or_value_is_shown(override: str) -> None:
    assert repr(override) in failure(override)


def test_an_override_that_is_not_yaml_is_shown() -> None:
    assert "student.profile_fields=[age" in failure("student.profile_fields=[age")


@pytest.mark.parametrize("text", ["student: {width: [}", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    assert str(file) in failure(file=file)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xff\xfe\x00\x81")
    assert str(file) in failure(file=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in failure(file=tmp_path / "none.yaml")


def test_an_unknown_recipe_is_named_with_the_known_ones(tmp_path: Path) -> None:
    message = failure(file=write(tmp_path, "recipe: paper-mimic5\n"))
    assert "paper-mimic5" in message
    assert all(name in message for name in RECIPES)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["student.width=66"], "student"),  # 4 heads cannot share 66
        (["student.profile_fields=[height]"], "profile_fields"),
        (["data.validation_fraction=0.6", "data.test_fraction=0.6"], "data"),  # nothing is left to train on
    ],
)
def test_settings_that_no_stage_can_use_are_refused_at_once(overrides: list[str], key: str) -> None:
    assert key in failure(*overrides)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DEFAULT.student.width = 3  # type: ignore[misc]


def test_fingerprints_are_equal_for_equal_values_alone() -> None:
    assert fingerprint(StudentConfig(), {"a": 1, "b": 2}) == fingerprint(StudentConfig(width=64), {"b": 2, "a": 1})
    assert fingerprint(StudentConfig(width=32)) != fingerprint(StudentConfig())
    assert fingerprint("a", "b") != fingerprint("ab")
    assert fingerprint(recipe("quickstart")) == fingerprint(
        load_config(DEFAULT, None, []).model_validate(recipe("quickstart").model_dump())
    )


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint("teacher", {"a": [1, None]}, 0.5) == "0c20e4425212ad81"

"""Callers' keys: made, kept as digests, read again while the application runs, and asked for at the door."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from leader_platform.errors import UserError
from leader_serve.keys import KeyRing, add_key, digest, read_keys, remove_key


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "keys.json")


def test_a_key_is_kept_as_a_digest_alone(path: str) -> None:
    first, second = add_key(path, "ward-7"), add_key(path, "audit")
    assert first != second
    assert len(first) > 40
    assert read_keys(path) == {"ward-7": digest(first), "audit": digest(second)}
    assert first not in Path(path).read_text()


def test_a_name_is_given_once_and_taken_back(path: str) -> None:
    add_key(path, "ward-7")
    with pytest.raises(UserError, match=r"There is a key ward-7 already"):
        add_key(path, "ward-7")
    with pytest.raises(UserError, match=r"'no such name' in .*; there are: ward-7"):
        remove_key(path, "no such name")
    remove_key(path, "ward-7")
    assert read_keys(path) == {}


@pytest.mark.parametrize("name", ["", "two words", "a" * 65, "line\nbreak"])
def test_what_cannot_name_a_key_is_refused(path: str, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a key"):
        add_key(path, name)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": []}', '{"keys": {"a": "plain"}}', '{"keys": {"a": 1}}'])
def test_what_is_no_key_file_is_refused_and_left_alone(path: str, content: str) -> None:
    Path(path).write_text(content)
    with pytest.raises(UserError, match=r"keys\.json is not a"):
        add_key(path, "ward-7")
    assert Path(path).read_text() == content


def test_a_missing_file_names_the_command_that_makes_one(path: str) -> None:
    with pytest.raises(UserError, match="leader serve keys add NAME"):
        KeyRing(path)


def test_keys_rotate_without_a_restart_and_survive_a_broken_file(path: str) -> None:
    now = [0.0]
    old = add_key(path, "old")
    ring = KeyRing(path, clock=lambda: now[0])

    def accepted(*keys: str) -> list[bool]:
        return [asyncio.run(ring.accepts(key)) for key in keys]

    new = add_key(path, "new")
    assert accepted(old, new) == [True, False]  # not read again yet
    now[0] = 5
    assert accepted(old, new, "", old + "x") == [True, True, False, False]
    remove_key(path, "old")
    now[0] = 10
    assert accepted(old, new) == [False, True]
    Path(path).write_text("half a fi")
    now[0] = 15
    assert accepted(old, new) == [False, True]
    Path(path).write_text(json.dumps({"keys": {}}))
    now[0] = 20
    assert accepted(new) == [False]

"""Tallies of many shards, sent as JSON and added up: a tally is a `Counter` with tuples of text for keys."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

Tally: TypeAlias = "Counter[tuple[str, ...]]"


def plain(tally: Tally) -> list[Any]:
    """JSON-able."""
    return [[list(key), count] for key, count in tally.items()]


def tally_of(pairs: list[Any]) -> Tally:
    return Counter({tuple(key): count for key, count in pairs})

"""Tallies: what was counted on the way, by keys `(name,)` or `(name, item)`; those of shards add up to the cohort's.

`("left out", reason)` counts what falls out normally, `("fault", reason)` what tables should not hold, and
`("removed", option)` what an option of the cohort asked to leave out. They travel as JSON.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

Tally: TypeAlias = "Counter[tuple[str, ...]]"


def plain(tally: Tally) -> list[Any]:
    """JSON-able."""
    return [[list(key), count] for key, count in tally.items()]


def tally_of(pairs: list[Any]) -> Tally:
    return Counter({tuple(key): count for key, count in pairs})

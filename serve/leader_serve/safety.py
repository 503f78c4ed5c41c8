"""Which known drug-drug interactions a recommendation would cause. Pure; nothing here hides or changes a medication."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from leader_platform import storage
from leader_platform.artifacts import STUDENT
from leader_platform.errors import UserError
from leader_serve.schemas import Between

INTERACTIONS_FILE = "interactions.parquet"
_COLUMNS = ["code_a", "code_b", "severity", "reason", "source"]
_ATC_CLASS_LENGTH = len("ATC:C09A")


@dataclass(frozen=True)
class InteractionFact:
    """What one source says of a pair."""

    severity: str | None
    reason: str
    source: str


@dataclass(frozen=True)
class Interaction:
    """A fact about a pair at hand; in `recommended-current` the recommended code comes first."""

    codes: tuple[str, str]
    between: Between
    fact: InteractionFact


class InteractionTable:
    """Known interactions by unordered pair; a pair may have several facts, from several sources."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self._facts: dict[frozenset[str], list[InteractionFact]] = {}
        for row in rows:
            facts = self._facts.setdefault(frozenset((row["code_a"], row["code_b"])), [])
            fact = InteractionFact(row["severity"], row["reason"], row["source"])
            # The same pair is often written both ways round.
            if fact not in facts:
                facts.append(fact)

    @classmethod
    def load(cls, run: str) -> InteractionTable:
        """From a run's `student/interactions.parquet`. `UserError` without one: no alert must mean no interaction."""
        path = storage.join(run, STUDENT, INTERACTIONS_FILE)
        if not storage.exists(path):
            raise UserError(f"{path} is missing, so interactions cannot be checked; train the run's student again.")
        return cls(storage.read_parquet(path, columns=_COLUMNS).to_pylist())

    def __len__(self) -> int:
        return len(self._facts)

    def facts(self, first: str, second: str) -> Sequence[InteractionFact]:
        return self._facts.get(frozenset((first, second)), ())


def interactions_within(
    recommended: Sequence[str], current: Sequence[str], table: InteractionTable
) -> list[Interaction]:
    """Interactions among `recommended`, and of those with `current` medications, in the order of `recommended`.

    A current medication given as a substance (`ATC:C09AA05`) is looked up as its class too. One that is recommended
    anyway is not reported a second time.
    """
    found = [
        Interaction((first, second), "recommended", fact)
        for first, second in combinations(recommended, 2)
        for fact in table.facts(first, second)
    ]
    already = set(recommended)
    for first in recommended:
        for taken in current:
            if taken not in already and _class_of(taken) not in already:
                facts = dict.fromkeys(fact for code in _levels(taken) for fact in table.facts(first, code))
                found += [Interaction((first, taken), "recommended-current", fact) for fact in facts]
    return found


def _class_of(code: str) -> str:
    return code[:_ATC_CLASS_LENGTH] if code.startswith("ATC:") else code


def _levels(code: str) -> Iterator[str]:
    yield code
    if _class_of(code) != code:
        yield _class_of(code)

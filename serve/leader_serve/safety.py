"""Which known drug-drug interactions a recommendation would cause. Pure; nothing here hides or changes a medication."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from leader_platform import storage
from leader_platform.artifacts import STUDENT
from leader_platform.data.interactions import seldom_meant, substance_names
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
    """A fact about a pair at hand; in `recommended-current` the recommended code comes first.

    `substances` names those of the recommended class that the fact concerns; it is empty where the whole class is.
    """

    codes: tuple[str, str]
    between: Between
    fact: InteractionFact
    substances: tuple[str, ...] = ()


class InteractionTable:
    """Known interactions of a medication class with another class, or with a substance that a patient takes.

    A fact about two substances is one about the class of each with the other substance, unless that class seldom means
    its substance (`seldom_meant`). A substance without a name in `names` goes by its code: a run may know more of them
    than the installed package.
    """

    def __init__(
        self,
        rows: Iterable[dict[str, Any]] = (),
        names: Mapping[str, str] | None = None,
        seldom_meant: Collection[str] = (),
    ) -> None:
        names = names or {}
        # [class, code] -> fact -> names of the class's substances; dictionaries, since they keep order and no doubles.
        self._facts: dict[tuple[str, str], dict[InteractionFact, dict[str, None]]] = {}
        for row in rows:
            fact = InteractionFact(row["severity"], row["reason"], row["source"])
            for code, other in ((row["code_a"], row["code_b"]), (row["code_b"], row["code_a"])):
                if code in seldom_meant:
                    continue
                its_class = _class_of(code)
                concerned = self._facts.setdefault((its_class, other), {}).setdefault(fact, {})
                if code != its_class:
                    concerned[names.get(code, code)] = None

    @classmethod
    def load(cls, run: str) -> InteractionTable:
        """From a run's `student/interactions.parquet`. `UserError` without one: no alert must mean no interaction."""
        path = storage.join(run, STUDENT, INTERACTIONS_FILE)
        if not storage.exists(path):
            raise UserError(f"{path} is missing, so interactions cannot be checked; train the run's student again.")
        rows = storage.read_parquet(path, columns=_COLUMNS).to_pylist()
        return cls(rows, substance_names(), seldom_meant())

    def facts(self, medication_class: str, other: str) -> Mapping[InteractionFact, Iterable[str]]:
        """What is known of a class with exactly this class or substance, each with the class's substances concerned."""
        return self._facts.get((medication_class, other), {})


def interactions_within(
    recommended: Sequence[str], current: Sequence[str], table: InteractionTable
) -> list[Interaction]:
    """Interactions among the `recommended` classes, and of those with `current` medications (classes or substances), in
    the order of `recommended`.

    A current substance is looked up by itself and, where nothing is known of it, as its class. Of a recommended class
    that it belongs to it is taken to be the medication meant. What two recommended classes tell is told once.
    """
    among = [
        Interaction((first, second), "recommended", fact)
        for first, second in combinations(recommended, 2)
        for fact in table.facts(first, second)
    ]
    return [*among, *_with_current(recommended, current, table)]


def _with_current(recommended: Sequence[str], current: Sequence[str], table: InteractionTable) -> Iterator[Interaction]:
    already = set(recommended)
    with_classes = [(taken, _class_of(taken)) for taken in current if taken not in already]
    for first, (taken, its_class) in product(recommended, with_classes):
        if its_class == first:
            continue
        facts = table.facts(first, taken)
        if not facts and its_class not in already:
            facts = table.facts(first, its_class)
        for fact, substances in facts.items():
            yield Interaction((first, taken), "recommended-current", fact, tuple(substances))


def _class_of(code: str) -> str:
    return code[:_ATC_CLASS_LENGTH] if code.startswith("ATC:") else code

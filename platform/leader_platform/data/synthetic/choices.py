"""Values with relative frequencies, drawn many at a time with uniform numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from leader_platform.data.synthetic.arrays import Floats, Ints

ICD_VERSIONS = (9, 10)


def limits_of(weights: Iterable[float]) -> Floats:
    """Where each value's share of [0, 1) ends; the last ends at exactly one."""
    limits = np.cumsum(list(weights))
    return limits / limits[-1]


@dataclass(frozen=True)
class Choice:
    """Values with relative frequencies."""

    values: tuple[str, ...]
    limits: Floats

    @classmethod
    def from_weights(cls, weighted: Iterable[tuple[str, float]]) -> Choice:
        """`weighted` holds (value, weight) pairs; the weights need not sum to one."""
        values, weights = zip(*weighted, strict=True)
        return cls(values, limits_of(weights))

    def draw(self, uniforms: Floats) -> Ints:
        """An index into `values` for each number in [0, 1)."""
        return np.searchsorted(self.limits, uniforms, side="right")


@dataclass(frozen=True)
class CodeBook:
    """ICD codes by key; a key is what is coded in one ICD version, and its codes have relative frequencies.

    `codes` holds each (version, code) once, sorted, and `titles` what they stand for.
    """

    codes: tuple[tuple[int, str], ...]
    titles: tuple[str, ...]
    keys: dict[tuple[str, int], int]  # (name, version) to number, ICD-9 first
    limits: Floats  # number of the key + share, ascending
    code_at: Ints  # index into `codes`, one for each of `limits`

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, int, str, float, str]]) -> CodeBook:
        """`rows` holds (name of the key, version, code, weight, title)."""
        rows = list(rows)
        title_of = dict(sorted(((version, code), title) for _, version, code, _, title in rows))
        place = {code: index for index, code in enumerate(title_of)}
        weighted: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
        for name, version, code, weight, _ in rows:
            weighted[version, name].append((place[version, code], weight))
        shares = [limits_of(weight for _, weight in weighted[key]) for key in sorted(weighted)]
        return cls(
            codes=tuple(title_of),
            titles=tuple(title_of.values()),
            keys={(name, version): number for number, (version, name) in enumerate(sorted(weighted))},
            limits=np.concatenate([number + share for number, share in enumerate(shares)]),
            code_at=np.array([code for key in sorted(weighted) for code, _ in weighted[key]]),
        )

    def draw(self, keys: Ints, uniforms: Floats) -> Ints:
        """An index into `codes` for each key and number in [0, 1)."""
        # Without the bound, the sum could round up to the next key.
        places = np.minimum(keys + uniforms, np.nextafter(keys + 1.0, 0.0))
        return self.code_at[np.searchsorted(self.limits, places, side="right")]

    def draw_keys(self, versions: Ints, uniforms: Floats) -> Ints:
        """A key of the ICD version (an index into ICD_VERSIONS) for each number in [0, 1), all equally likely."""
        num_first = sum(version == ICD_VERSIONS[0] for _, version in self.keys)
        first, end = np.array([0, num_first]), np.array([num_first, len(self.keys)])
        return first[versions] + (uniforms * (end - first)[versions]).astype(np.intp)

    def keys_of(self, names: Iterable[str]) -> Ints:
        """[names, versions]: the key of each name in each ICD version, -1 where it has none."""
        return np.array([[self.keys.get((name, version), -1) for version in ICD_VERSIONS] for name in names])

"""Bootstrap intervals by patient: a patient's visits are alike, so patients are drawn, never samples.

A metric must be a function of sums over samples. The samples' statistics are summed by patient once; a replicate is
then a vector of how often each patient was drawn, and many replicates together are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leader_platform.evaluation.metrics import Bools, Floats, Integers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PERCENTILES = (2.5, 97.5)
_DECIMALS = 6  # of a result; sums in float32 bear no more
_CHUNK_BYTES = 128 * 2**20  # of counts held at a time


@dataclass(frozen=True)
class Estimate:
    """Metrics of one model and group: `values` [metrics], of the samples as they are, and of every replicate,
    `replicates` [replicates, metrics]. NaN where a metric has no meaning."""

    values: Floats
    replicates: Floats

    @classmethod
    def mean(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Of the same model trained with several seeds, replicate by replicate."""
        return cls(
            np.mean([each.values for each in estimates], axis=0),
            np.mean([each.replicates for each in estimates], axis=0),
        )

    def __sub__(self, other: Estimate) -> Estimate:
        """The paired difference; both must come of the same patients, in the same replicates."""
        return Estimate(self.values - other.values, self.replicates - other.replicates)

    def intervals(self) -> list[list[float] | None]:
        """For each metric its value and 95 % interval, JSON-able; None where it has no meaning.

        The value is that of the samples, not the replicates' mean. Replicates in which a metric has no meaning are left
        out.
        """
        return [_interval(value, column) for value, column in zip(self.values, self.replicates.T, strict=True)]


def _interval(value: float, replicates: Floats) -> list[float] | None:
    if np.isnan(value):
        return None
    ends = np.percentile(replicates[~np.isnan(replicates)], PERCENTILES)
    return [round(float(number), _DECIMALS) + 0.0 for number in (value, *ends)]  # no "-0.0"


def membership(patients: Integers, rows: Bools) -> csr_array:
    """Which of the samples `rows` are each patient's: ones, float32 [patients that have such a sample, samples].

    Its product with the samples' statistics [samples, columns] is the sums by patient.
    """
    from scipy.sparse import csr_array

    samples = np.flatnonzero(rows)
    numbers = np.unique(patients[samples], return_inverse=True)[1]
    return csr_array((np.ones(len(samples), np.float32), (numbers, samples)), shape=(numbers.max() + 1, len(rows)))


def bootstrap(
    sums: Sequence[Floats], metrics: Callable[[Floats], Floats], num_replicates: int, seed: int
) -> list[Estimate]:
    """An estimate for each array of sums [patients, columns], all from the same draws of patients.

    `metrics` makes [..., columns] into [..., metrics].
    """
    values = [metrics(each.sum(axis=0, dtype=float)) for each in sums]
    replicates = [
        [metrics(counts @ each) for each in sums] for counts in draw_patients(len(sums[0]), num_replicates, seed)
    ]
    return [
        Estimate(value, np.concatenate(chunks))
        for value, chunks in zip(values, zip(*replicates, strict=True), strict=True)
    ]


def draw_patients(num_patients: int, num_replicates: int, seed: int) -> Iterator[Floats]:
    """How often each replicate draws each patient, float32 [replicates, patients], in chunks of bounded memory.

    A replicate is as many draws with replacement as there are patients. What is drawn does not depend on the chunks.
    """
    generator = np.random.default_rng(seed)
    num_at_once = max(1, _CHUNK_BYTES // (4 * num_patients))
    for start in range(0, num_replicates, num_at_once):
        counts = np.empty((min(num_at_once, num_replicates - start), num_patients), dtype=np.float32)
        for row in counts:
            row[:] = np.bincount(generator.integers(num_patients, size=num_patients), minlength=num_patients)
        yield counts

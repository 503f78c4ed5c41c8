"""Types of arrays, times among them, and runs of equal rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]  # in minutes
Durations = NDArray[np.timedelta64]  # in minutes

NEVER = np.datetime64("NaT", "m")


def hours(numbers: Floats) -> Durations:
    """Numbers of hours as durations."""
    return (60 * numbers).astype("m8[m]")


def years(times: Times) -> Ints:
    """The calendar year of each."""
    return times.astype("M8[Y]").astype(np.intp) + 1970


def begins(*columns: Ints) -> Bools:
    """Whether a row differs from the one before it; for rows that are sorted, whether it is the first of its kind."""
    differs = [column[1:] != column[:-1] for column in columns]
    return np.concatenate([[True], np.logical_or.reduce(differs)])[: len(columns[0])]


def count_within(group: Ints) -> Ints:
    """1, 2, ... within each run of equal values."""
    number = np.arange(len(group))
    return 1 + number - np.maximum.accumulate(np.where(begins(group), number, 0))

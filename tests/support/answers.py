"""Random answers to random cases, for property tests of the metrics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

PROBABILITIES = st.sampled_from([0.0, 0.2, 0.5, 0.75, 1.0]) | st.floats(0, 1, width=32)  # ties are likely


class Judged(NamedTuple):
    """Labels, float32 probabilities and choices [samples, medications], and symmetric interactions [medications,
    medications]; samples with no label, nothing but labels or nothing chosen are likely."""

    labels: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    interacting: np.ndarray


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    num_samples, num_medications = draw(st.integers(1, 8)), draw(st.integers(2, 10))
    shape = (num_samples, num_medications)
    labels = draw(arrays(bool, shape)) & draw(arrays(bool, (num_samples, 1)))
    scores = draw(arrays(np.float32, shape, elements=PROBABILITIES))
    upper = np.triu(draw(arrays(bool, (num_medications, num_medications))), k=1)
    return Judged(labels, scores, scores >= draw(st.sampled_from([0.2, 0.5, 0.9])), upper | upper.T)

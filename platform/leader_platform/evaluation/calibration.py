"""How far probabilities can be believed, and one number, the temperature, that makes them more believable.

Bins are of equal width over [0, 1]; each holds its lower edge, the last one both. `labels` is bool and `probabilities`
float, both [samples, medications].
"""

from __future__ import annotations

import numpy as np

from leader_platform.evaluation.metrics import Bools, Floats, Integers
from leader_platform.features import probabilities as sigmoid

TEMPERATURES = (0.05, 20.0)  # from, to; a model beyond is not miscalibrated but broken
_CLOSEST = 1e-7  # to 0 and 1, for a logit


def bins_of(probabilities: Floats, num_bins: int) -> Integers:
    """The bin of each probability, from 0, in its shape."""
    return np.minimum((probabilities * num_bins).astype(np.intp), num_bins - 1)


def residuals(labels: Bools, probabilities: Floats, num_bins: int) -> Floats:
    """Probability less label within each bin, summed over a sample's medications and divided by their number; float
    [samples, bins]."""
    num_samples, num_medications = labels.shape
    cells = bins_of(probabilities, num_bins) + num_bins * np.arange(num_samples)[:, None]
    sums = np.bincount(cells.ravel(), (probabilities - labels).ravel(), minlength=num_samples * num_bins)
    return sums.reshape(num_samples, num_bins) / num_medications


def expected_calibration_error(labels: Bools, probabilities: Floats, num_bins: int) -> float:
    """Mean gap between probability and frequency of the label over the bins, each weighed by what it holds (Naeini and
    others, AAAI 2015)."""
    return float(np.abs(residuals(labels, probabilities, num_bins).mean(axis=0)).sum())


def reliability_curve(labels: Bools, probabilities: Floats, num_bins: int) -> tuple[Floats, Floats, Integers]:
    """Mean probability, frequency of the label and count of each bin [bins]; the first two are NaN for an empty bin."""
    bins = bins_of(probabilities, num_bins).ravel()
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(bins, probabilities.ravel(), minlength=num_bins) / counts,
            np.bincount(bins, labels.ravel(), minlength=num_bins) / counts,
            counts,
        )


def fit_temperature(logits: Floats, labels: Bools) -> float:
    """The T of `TEMPERATURES` for which sigmoid(logits / T) has the least binary cross-entropy; for validation only.

    Above 1 the model was too sure of itself. From Guo and others, ICML 2017.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - labels * scaled).mean())

    # The loss is convex in 1 / T, so it has one valley in log T too.
    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def logits_of(probabilities: Floats) -> Floats:
    """The logits of probabilities, finite even for 0 and 1; float64."""
    kept = np.clip(probabilities.astype(float), _CLOSEST, 1 - _CLOSEST)
    return np.log(kept) - np.log1p(-kept)


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """The probabilities at a temperature, in the precision they have."""
    return sigmoid(logits_of(probabilities) / temperature).astype(probabilities.dtype)

"""Whether predicted probabilities come true: reliability bins and their expected error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthrank.metrics.requests import Floats


@dataclass(frozen=True)
class Reliability:
    """Per bin of equal size by predicted probability: mean prediction, share of positives, number of rows."""

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """ECE: the mean absolute gap of prediction and outcome, weighted by rows; NaN without rows."""
        if not len(self.count):
            return float("nan")
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.count))


def reliability(label: Floats, probability: Floats, num_bins: int = 20) -> Reliability:
    """Reliability of ``probability`` [N] against ``label`` [N] in at most ``num_bins`` quantile bins.

    Equal probabilities never fall into different bins, so bins may be fewer and uneven.
    """
    assert label.shape == probability.shape and not np.isnan(label).any()
    if not len(label):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bin_n = np.searchsorted(edges, probability, side="right")
    count = np.bincount(bin_n, minlength=len(edges) + 1)
    used = count > 0
    predicted = np.bincount(bin_n, weights=probability, minlength=len(count))[used] / count[used]
    observed = np.bincount(bin_n, weights=label > 0, minlength=len(count))[used] / count[used]
    return Reliability(predicted, observed, count[used].astype(np.int64))


def expected_calibration_error(label: Floats, probability: Floats, num_bins: int = 20) -> float:
    """ECE over quantile bins (``reliability``)."""
    return reliability(label, probability, num_bins).expected_error

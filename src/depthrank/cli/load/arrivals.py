"""When requests leave, and whose they are: a Poisson process or a trace, and users by Zipf popularity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrivals:
    """rate: requests a second, times ``surge`` in the middle third of ``seconds``."""

    rate: float
    seconds: float
    surge: float = 1.0
    seed: int = 0

    def times_s(self) -> Floats:
        """Intended send times from 0, ascending: a Poisson process, thinned outside the surge."""
        rng = np.random.default_rng(self.seed)
        peak = self.rate * self.surge
        gaps = rng.exponential(1 / peak, size=int(peak * self.seconds * 2) + 64)
        times = np.cumsum(gaps)
        times = times[times < self.seconds]
        third = self.seconds / 3
        in_surge = (times >= third) & (times < 2 * third)
        return np.asarray(times[in_surge | (rng.random(len(times)) < 1 / self.surge)])


def trace_times(at_ms: Sequence[float], speed: float = 1.0) -> Floats:
    """Send times in seconds of a recorded trace, from 0 and ascending, ``speed`` times as fast."""
    times = np.sort(np.asarray(at_ms, dtype=np.float64))
    return np.asarray((times - times[0]) / 1e3 / speed if times.size else times)


@dataclass(frozen=True)
class Zipf:
    """Popularity of users: the k-th most active is asked for in proportion to k^-exponent (0: all alike)."""

    exponent: float
    seed: int = 0

    def draw(self, num_users: int, size: int) -> npt.NDArray[np.int64]:
        """Users by rank, from 0; int64 [size]."""
        weight = np.arange(1, num_users + 1, dtype=np.float64) ** -self.exponent
        rng = np.random.default_rng([self.seed, num_users])
        return np.asarray(np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(size)), dtype=np.int64)

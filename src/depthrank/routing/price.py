"""The shadow price of compute: what a thread-millisecond must gain to be worth spending.

Offline it is found by bisection on replayed requests: the mean cost of the choices falls as the price rises. Online
it follows the load: every interval the price moves by the logarithm of load over target. If a mean cost falls about as
price^-e, this closes the share ``step * e`` of the distance at once, so with step * e below 1 it approaches without
overshooting, at any load. Both ends are bounded: below the low end everything is at full depth anyway, above the high
end nothing is left to save, and a price that ran further away would have to come back first.

Source: DCAF (arXiv 2006.09684) for the choice by price.

Legend: R requests, J rungs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BISECTIONS = 60
NO_GAIN = (1e-12, 1.0)


def choices_at(price: float, gain_RJ: Floats, cost_RJ: Floats) -> NDArray[np.int64]:
    """The rung that each request takes at a price, int64 [R]; the cheaper one of equals."""
    return np.asarray(np.argmax(gain_RJ - price * cost_RJ, axis=1), dtype=np.int64)


def mean_cost_at(price: float, gain_RJ: Floats, cost_RJ: Floats) -> float:
    """Mean cost of the choices at a price."""
    return float(np.take_along_axis(cost_RJ, choices_at(price, gain_RJ, cost_RJ)[:, None], axis=1).mean())


def price_range(gain_RJ: Floats, cost_RJ: Floats) -> tuple[float, float]:
    """Prices at which everything is at its deepest useful rung and at which everything is at the first."""
    if not (gain_RJ > gain_RJ[:, :1]).any():
        return NO_GAIN  # any price will do
    high = 1.0
    least = float(cost_RJ[:, 0].mean())
    while mean_cost_at(high, gain_RJ, cost_RJ) > least * (1 + 1e-9) and high < 1e300:
        high *= 4.0
    while mean_cost_at(high / 4.0, gain_RJ, cost_RJ) <= least * (1 + 1e-9) and high > 1e-300:
        high /= 4.0
    low, most = high, mean_cost_at(0.0, gain_RJ, cost_RJ)
    while mean_cost_at(low, gain_RJ, cost_RJ) < most * (1 - 1e-3) and low > high * 1e-12:
        low /= 4.0
    return low, high


def bisect_price(target_cost: float, gain_RJ: Floats, cost_RJ: Floats) -> float:
    """The lowest price whose choices cost ``target_cost`` a request on average at most; 0 where any price does.

    Where even the first rungs cost more, the price at which everything is at the first rung.
    """
    if mean_cost_at(0.0, gain_RJ, cost_RJ) <= target_cost:
        return 0.0
    low, high = price_range(gain_RJ, cost_RJ)
    low = low * 1e-6
    if mean_cost_at(high, gain_RJ, cost_RJ) > target_cost:
        return high
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        if mean_cost_at(middle, gain_RJ, cost_RJ) <= target_cost:
            high = middle
        else:
            low = middle
    return high


@dataclass
class PriceController:
    """Moves the price so that the admitted predicted cost stays near ``target`` of the capacity. Reads no clock.

    ``capacity_ms_per_s``: thread-milliseconds a second that may be spent (1,000 a core). ``step``: how much of the
    logarithm of load over target one update takes; ``most``: at most this, in e-folds. ``smoothing``: weight of the
    newest interval in the load.
    """

    price: float
    low: float
    high: float
    capacity_ms_per_s: float
    target: float = 0.85
    step: float = 0.5
    most: float = 1.5
    smoothing: float = 0.7
    load: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high < math.inf and self.capacity_ms_per_s > 0 and 0 < self.target <= 1):
            raise ValueError(
                f"a price between {self.low} and {self.high}, a capacity of {self.capacity_ms_per_s} ms a second and a "
                f"target of {self.target}: expected 0 < low <= high, a capacity above 0 and a target in (0, 1]"
            )
        self.price = min(max(self.price, self.low), self.high)

    def update(self, admitted_ms: float, seconds: float) -> float:
        """The price from now on, after ``admitted_ms`` of predicted cost were admitted in ``seconds``.

        An interval without length (a clock that stood still or jumped back) changes nothing.
        """
        if not (seconds > 0 and math.isfinite(seconds) and admitted_ms >= 0 and math.isfinite(admitted_ms)):
            return self.price
        now = admitted_ms / (seconds * self.capacity_ms_per_s)
        self.load = now if self.load is None else self.smoothing * now + (1 - self.smoothing) * self.load
        move = self.step * math.log(max(self.load, 1e-9) / self.target)
        self.price = min(max(self.price * math.exp(min(max(move, -self.most), self.most)), self.low), self.high)
        return self.price

"""The price of compute, moved by the load: cheap while there is room, dear when there is not.

Every interval the admitted predicted work is held against the measured capacity (``routing.PriceController``), one
price a model version, all moved by the same load. A version without a fitted policy has no choice that a price could
move: for it the price is the reciprocal of a budget, so that its requests are capped at 1/price of their full-depth
cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from depthrank.routing import PriceController
from depthrank.routing.economy import Economy

LEAST_BUDGET = 1e-3
MOST_INTERVALS = 8


@dataclass
class Pricing:
    """``target``: share of the capacity; ``interval_s``: between two moves. A clock that stands or jumps back moves
    nothing; after a long pause the price takes a few steps down, not one."""

    target: float
    interval_s: float
    load: float = 0.0
    _controllers: dict[str, PriceController] = field(default_factory=dict)
    _usual: dict[str, float] = field(default_factory=dict)
    _admitted_ms: float = 0.0
    _since_s: float | None = None

    def know(self, version: str, economy: Economy, capacity_ms_per_s: float) -> None:
        """A version and its prices; known ones keep theirs."""
        if version in self._controllers:
            return
        usual = economy.default_price
        if usual is None or not economy.prices:
            usual, high = 1.0, 1 / LEAST_BUDGET
        else:
            usual = max(usual, economy.prices[0][0])
            high = max(economy.prices[-1][0], usual)
        self._usual[version] = usual
        self._controllers[version] = PriceController(
            usual, usual, high, max(capacity_ms_per_s, 1e-3), target=self.target, smoothing=0.5
        )

    def of(self, version: str) -> float | None:
        """The price for a version; None where nothing is known of it."""
        known = self._controllers.get(version)
        return None if known is None else known.price

    def usual(self, version: str) -> float:
        """The price where there is room; 1 where nothing is known of a version."""
        return self._usual.get(version, 1.0)

    def dearness(self, version: str) -> float:
        """The price as a multiple of the usual one."""
        price = self.of(version)
        return 1.0 if price is None else price / self.usual(version)

    def admitted(self, work_ms: float) -> None:
        """Predicted work that was let in."""
        self._admitted_ms += work_ms

    def tick(self, now_s: float, capacity_ms_per_s: float) -> None:
        """Move the prices where an interval is over."""
        if self._since_s is None or now_s < self._since_s:
            self._since_s, self._admitted_ms = now_s, 0.0
            return
        seconds = now_s - self._since_s
        if seconds < self.interval_s:
            return
        steps = min(MOST_INTERVALS, max(1, int(seconds / self.interval_s)))
        for controller in self._controllers.values():
            controller.capacity_ms_per_s = max(capacity_ms_per_s, 1e-3)
            for _ in range(steps):
                controller.update(self._admitted_ms, seconds)
            self.load = controller.load or 0.0
        self._since_s, self._admitted_ms = now_s, 0.0

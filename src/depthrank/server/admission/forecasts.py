"""What a request will cost, before anything of it is computed: from its candidates, and from what is remembered of its
user. Pure: it learns from what it is told.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from depthrank.routing.economy import Economy
from depthrank.schema.request import Spent
from depthrank.server.admission.claim import Claim, Forecast

USERS_KEPT = 100_000
SMOOTHING = 0.05
FIRST_OVERHEAD_MS = 0.3
PRICES_KEPT = 256
UNKNOWN_MS = 1.0  # a ranker that does not tell what it costs


@dataclass
class _User:
    lane: int
    history_length: int


class Forecasts:
    """Costs by model version; users by name, the longest unseen forgotten first."""

    def __init__(self) -> None:
        self._economies: dict[str, Economy] = {}
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._overhead_ms: dict[str, float] = {}
        self._depths: dict[str, tuple[float, float]] = {}
        self._depth_at_price: dict[tuple[str, float], float] = {}
        self._usual_history = 0.0
        self._mean_ms = UNKNOWN_MS

    def tell(self, version: str, economy: Economy) -> None:
        """What a version costs by now."""
        self._economies[version] = economy
        self._depth_at_price.clear()

    def economy(self, version: str) -> Economy | None:
        """What is known of a version."""
        return self._economies.get(version)

    def lane_of(self, user: str) -> int | None:
        """The engine that served the user last."""
        known = self._users.get(user)
        return None if known is None else known.lane

    def of(self, user: str, version: str, num_candidates: int) -> Forecast:
        """The forecast for a request on the engine that served its user last."""
        economy, known = self._economies.get(version), self._users.get(user)
        if economy is None:
            return Forecast(self._mean_ms, self._mean_ms)
        history = int(self._usual_history) if known is None else known.history_length
        overhead = self._overhead_ms.get(version, FIRST_OVERHEAD_MS)
        cold, warm = (economy.router_ms(num_candidates, history, warm=w) + overhead for w in (False, True))
        full = economy.full_ms(num_candidates, history, warm=known is not None) + overhead
        router = cold if known is None else warm
        return Forecast(router, max(full, router), max(0.0, cold - warm))

    def wanted_ms(self, version: str, forecast: Forecast, price: float) -> float:
        """What a request takes at a price on average: the router, and what choices at that price cost beyond it."""
        depth = forecast.full_ms * self._depth_at(version, price) * self._correction(version)
        return min(forecast.router_ms + depth, forecast.full_ms)

    def price_at(self, version: str, forecast: Forecast, cost_ms: float) -> float:
        """The price at which a request takes ``cost_ms`` on average: the inverse of ``wanted_ms``."""
        economy = self._economies[version]
        depth = (cost_ms - forecast.router_ms) / max(forecast.full_ms * self._correction(version), 1e-9)
        if depth <= 0:
            return economy.prices[-1][0]
        return economy.price_at(depth + economy.prices[-1][1])

    def _depth_at(self, version: str, price: float) -> float:
        """Mean cost of the choices at a price beyond those at the highest one, as a share of full depth's. Whoever
        starts asks it of all that wait, at one price: with thirty waiting that took half as long as an answer."""
        found = self._depth_at_price.get((version, price))
        if found is None:
            economy = self._economies[version]
            found = max(0.0, economy.cost_at(price) - economy.prices[-1][1])
            if len(self._depth_at_price) >= PRICES_KEPT:
                self._depth_at_price.clear()
            self._depth_at_price[version, price] = found
        return found

    def _correction(self, version: str) -> float:
        """Depth that requests took here lately, as a multiple of what replay says of their prices."""
        took, said = self._depths.get(version, (1.0, 1.0))
        return min(4.0, max(0.1, took / max(said, 1e-9)))

    def learn(self, claim: Claim, spent: Spent | None, thread_ms: float) -> None:
        """What a served request took in all."""
        self._mean_ms += SMOOTHING * (thread_ms - self._mean_ms)
        if spent is None:
            return
        self._users[claim.user] = _User(claim.lane, spent.history_length)
        self._users.move_to_end(claim.user)
        if len(self._users) > USERS_KEPT:
            self._users.popitem(last=False)
        self._usual_history += SMOOTHING * (spent.history_length - self._usual_history)
        overhead = self._overhead_ms.get(claim.version, FIRST_OVERHEAD_MS)
        self._overhead_ms[claim.version] = overhead + SMOOTHING * (max(0.0, thread_ms - spent.thread_ms) - overhead)
        self._learn_depth(claim, thread_ms)

    def _learn_depth(self, claim: Claim, thread_ms: float) -> None:
        """What depth took at its price, and what replay said; as shares of full depth. What was cut short tells
        nothing, nor does what had no depth by its price."""
        economy, full_ms = self._economies.get(claim.version), claim.forecast.full_ms
        if economy is None or not economy.prices or claim.price is None:
            return
        if claim.mode != "adaptive" or claim.budget is not None or claim.shortened:
            return
        said = self._depth_at(claim.version, claim.price)
        if said <= 0:
            return
        took = max(0.0, thread_ms - claim.forecast.router_ms) / max(full_ms, 1e-9)
        before_took, before_said = self._depths.get(claim.version, (said, said))
        self._depths[claim.version] = (
            before_took + SMOOTHING * (took - before_took),
            before_said + SMOOTHING * (said - before_said),
        )

    def forget(self, user: str) -> None:
        """Drop what is remembered of a user."""
        self._users.pop(user, None)

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
        self._correction: dict[str, float] = {}
        self._usual_history = 0.0
        self._mean_ms = UNKNOWN_MS

    def tell(self, version: str, economy: Economy) -> None:
        """What a version costs by now."""
        self._economies[version] = economy

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

    def correction(self, version: str) -> float:
        """What requests with depth took lately, as a multiple of what was predicted."""
        return self._correction.get(version, 1.0)

    def wanted_ms(self, version: str, forecast: Forecast, fraction: float) -> float:
        """What a request takes whose choices cost ``fraction`` of full depth on average."""
        depth = fraction * forecast.full_ms * self.correction(version)
        return min(max(depth, forecast.router_ms), forecast.full_ms)

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
        if claim.mode == "adaptive" and not claim.shortened and claim.expected_ms > 0:
            ratio = min(4.0, max(0.25, thread_ms / claim.expected_ms))
            known = self._correction.get(claim.version, 1.0)
            self._correction[claim.version] = min(4.0, max(0.1, known * (1 + SMOOTHING * (ratio - 1))))

    def forget(self, user: str) -> None:
        """Drop what is remembered of a user."""
        self._users.pop(user, None)

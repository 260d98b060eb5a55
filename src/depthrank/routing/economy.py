"""What serving one model costs and what compute is worth to it: what a server predicts by, and sets its price by."""

from __future__ import annotations

import msgspec
import numpy as np

from depthrank.routing.cost_rates import USER, CostRates
from depthrank.routing.policy import AdaptivePolicy

PASS_FACTOR = 1.1  # what a pass over several requests takes, as a multiple of its parts (bench_batching)
PAYS = 0.95
LEAST_DEPTH = 0.2  # of a level's fixed part: below it hardly any request goes deeper, and there is nothing to share


class Economy(msgspec.Struct, frozen=True):
    """``prices`` ascend, each with the mean cost it led to in replay, as a fraction of full depth's; empty where no
    policy was fitted. ``levels``: the router included. ``rungs``: the plan ladder, cheapest first: cost as a fraction
    of full depth's, the gain it keeps, and the widths of the levels beyond the router at ``usual`` candidates."""

    rates: CostRates
    levels: int
    default_price: float | None = None
    prices: tuple[tuple[float, float], ...] = ()
    rungs: tuple[tuple[float, float, tuple[int, ...]], ...] = ()
    usual: int = 0

    @classmethod
    def of(cls, rates: CostRates, policy: AdaptivePolicy | None) -> Economy:
        """The economy of a model with this policy, at these rates."""
        if policy is None:
            return cls(rates, rates.num_levels)
        prices = tuple((point.price, point.cost) for point in policy.prices)
        rungs = tuple((rung.cost, rung.kept_gain, rung.widths) for rung in policy.ladder.rungs)
        return cls(rates, rates.num_levels, policy.default_price, prices, rungs, policy.ladder.usual)

    def router_ms(self, num_candidates: int, history_length: int, *, warm: bool) -> float:
        """Thread time of the cheapest answer: the user side and level 0."""
        user = self.rates.level_ms(USER, 0, 0 if warm else history_length, warm=warm)
        return user + self.rates.level_ms(0, num_candidates, history_length, warm=warm)

    def full_ms(self, num_candidates: int, history_length: int, *, warm: bool) -> float:
        """Thread time of full depth."""
        plan = [num_candidates] * self.levels
        return max(
            self.rates.plan_ms(plan, history_length, warm=warm),
            self.router_ms(num_candidates, history_length, warm=warm),
        )

    def cost_at(self, price: float) -> float:
        """Mean cost of the policy's choices at a price, as a fraction of full depth's; between prices by interpolation
        over the logarithm of the price."""
        assert self.prices, "a policy was fitted"
        known, cost = np.array(self.prices).T
        return float(np.interp(np.log(max(price, 1e-300)), np.log(known), cost))

    def price_at(self, cost: float) -> float:
        """The lowest price whose choices cost ``cost`` of full depth on average at most, the highest one where none
        does: the inverse of ``cost_at``."""
        assert self.prices, "a policy was fitted"
        known, costs = np.array(self.prices).T
        least = np.minimum.accumulate(costs)[::-1]  # in replay a dearer price may have cost a little more by chance
        return float(np.exp(np.interp(cost, least, np.log(known)[::-1])))

    def together_ms(self, depth_ms: float, requests: int) -> float:
        """Thread time of the depth of several requests in shared passes, each of which takes ``depth_ms`` alone."""
        once = min(max(0.0, self.rates.warm[2].fixed), depth_ms) if self.levels > 1 else 0.0
        return PASS_FACTOR * (requests * depth_ms - (requests - 1) * once)

    def pays_together(self, depth_ms: float, requests: int) -> bool:
        """Whether that is less than one by one, and there is anything to share."""
        if self.levels < 2 or depth_ms < LEAST_DEPTH * self.rates.warm[2].fixed:
            return False
        return self.together_ms(depth_ms, requests) < PAYS * requests * depth_ms

"""The adaptive policy of one model: ladder, residual spreads, value of depth, costs, price, and whose they are.

Made by replay at the end of training (``training.fit_by_replay``), stored in the artifact as JSON, and refused for any
other model: a ladder tells what this model's levels gain, and nothing about another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.choose import Decision, DecisionInputs, Options, choose, options_of
from depthrank.routing.cost_model import CostModel
from depthrank.routing.depth_value import DepthValue
from depthrank.routing.ladder import PlanLadder
from depthrank.routing.plain import fields_of, finite_number, finite_numbers
from depthrank.routing.signals import ScenarioEffects, Signals, signals_of
from depthrank.routing.survivors import LevelSpread, Survivors, check_confidence, survivors

FORMAT = 1
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class PricePoint:
    """What a price led to in replay: mean cost as a fraction of full depth's (warm), and the gain kept."""

    price: float
    cost: float
    kept_gain: float


@dataclass(frozen=True, eq=False)
class AdaptivePolicy:
    """Decides for a model how deep each request and each candidate goes.

    ``made_for``: identity of that model. ``most``: the most a value can be (before a candidate's factor). ``spreads``:
    of each level but the deepest. ``fitted``: how it was made, for people.
    """

    made_for: str
    most: float
    ladder: PlanLadder
    spreads: tuple[LevelSpread, ...]
    confidence: float | None
    value: DepthValue
    costs: CostModel
    scenarios: ScenarioEffects
    default_price: float
    prices: tuple[PricePoint, ...]
    fitted: Mapping[str, Any]

    @property
    def num_levels(self) -> int:
        """Levels, the router included."""
        return self.ladder.num_levels

    @property
    def price_bounds(self) -> tuple[float, float]:
        """The lowest and highest price that change anything, for a PriceController."""
        return self.prices[0].price, self.prices[-1].price

    def signals(
        self,
        value_N: NDArray[np.floating],
        top: int,
        *,
        history_length: int,
        time_ms: int,
        context: Mapping[str, Any] | None = None,
    ) -> Signals:
        """Signals of one request from level 0's values [N]."""
        scenario = self.scenarios.of(context or {})
        return signals_of(value_N, top, history_length=history_length, time_ms=time_ms, scenario=scenario)

    def decide(self, inputs: DecisionInputs) -> Decision:
        """How deep this request goes. Pure. Raises RequestError for budgets, prices and values that are no numbers."""
        known = self.resolved(inputs)
        assert known.rates is not None and known.price is not None
        return choose(known, self.options(known), known.price, self.confidence)

    def resolved(self, inputs: DecisionInputs) -> DecisionInputs:
        """The inputs with the policy's own price and costs where none are given: what a record must hold to replay."""
        rates = self.costs.rates() if inputs.rates is None else inputs.rates
        return replace(inputs, rates=rates, price=self.default_price if inputs.price is None else inputs.price)

    def options(self, inputs: DecisionInputs) -> Options:
        """Cost and predicted gain of every rung for this request."""
        rates = self.costs.rates() if inputs.rates is None else inputs.rates
        return options_of(inputs, self.ladder, self.value, rates)

    def survivors(
        self,
        level: int,
        value_N: NDArray[np.float64],
        top: int,
        cap: int,
        factor_N: NDArray[np.float64] | None = None,
        confidence: float | None = None,
    ) -> Survivors:
        """Who goes on from ``level``, which has just scored these candidates. ``confidence`` None: the cap alone."""
        spread = self.spreads[level] if level < len(self.spreads) else None
        return survivors(value_N, top, cap, spread, confidence, most=self.most, factor_N=factor_N)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "made_for": self.made_for,
            "most": self.most,
            "ladder": self.ladder.to_plain(),
            "spreads": [spread.to_plain() for spread in self.spreads],
            "confidence": self.confidence,
            "value": self.value.to_plain(),
            "costs": self.costs.to_plain(),
            "scenarios": self.scenarios.to_plain(),
            "default_price": self.default_price,
            "prices": [[p.price, p.cost, p.kept_gain] for p in self.prices],
            "fitted": dict(self.fitted),
        }

    def to_bytes(self) -> bytes:
        """The policy as JSON."""
        return msgspec.json.encode(self.to_plain())

    @classmethod
    def from_bytes(cls, raw: bytes) -> AdaptivePolicy:
        """Inverse of ``to_bytes``; raises ArtifactError for anything that is no policy of this version."""
        if len(raw) > MOST_BYTES:
            raise ArtifactError(f"the adaptive part has {len(raw):,} bytes; at most {MOST_BYTES:,} are read")
        try:
            plain = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(f"the adaptive part is damaged: {error}") from None
        return cls.from_plain(plain)

    @classmethod
    def from_plain(cls, plain: object) -> AdaptivePolicy:
        """Inverse of ``to_plain``; raises ArtifactError for anything that is no policy of this version."""
        names = ("format", "made_for", "most", "ladder", "spreads", "confidence", "value", "costs", "scenarios")
        f = fields_of(plain, (*names, "default_price", "prices", "fitted"), "policy")
        if f["format"] != FORMAT:
            raise ArtifactError(f"the adaptive part has format {f['format']!r:.40}; this version reads {FORMAT}")
        policy = cls(
            made_for=str(f["made_for"]),
            most=finite_number(f["most"], "most of a value", 1e-30),
            ladder=PlanLadder.from_plain(f["ladder"]),
            spreads=tuple(LevelSpread.from_plain(v) for v in _list(f["spreads"])),
            confidence=check_confidence(f["confidence"]),
            value=DepthValue.from_plain(f["value"]),
            costs=CostModel.from_plain(f["costs"]),
            scenarios=ScenarioEffects.from_plain(f["scenarios"]),
            default_price=finite_number(f["default_price"], "default price", 0.0),
            prices=tuple(PricePoint(*finite_numbers(v, "a price point", 3).tolist()) for v in _list(f["prices"])),
            fitted=fields_of(f["fitted"], (), "fitted"),
        )
        policy._check_levels()
        return policy

    def _check_levels(self) -> None:
        counts = {"ladder": self.num_levels, "spreads": len(self.spreads) + 1, "costs": self.costs.num_levels}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} of {n} levels" for name, n in counts.items())
            raise ArtifactError(f"the adaptive part does not fit together: {told}")
        base_J = self.value.base_J
        if base_J is not None and base_J.size != len(self.ladder.rungs):
            raise ArtifactError(
                f"the adaptive part does not fit together: shares of {base_J.size} rungs, not the ladder's"
            )
        prices = [p.price for p in self.prices]
        if not prices or prices[0] <= 0 or prices != sorted(prices):
            raise ArtifactError("the adaptive part is damaged: its prices must be above 0 and ascend")

    def check_made_for(self, identity: str, num_levels: int) -> None:
        """Raise ArtifactError where the policy was made for another model."""
        if self.made_for != identity or self.num_levels != num_levels:
            raise ArtifactError(
                f"the plan ladder was made for another model ({self.made_for:.20}, {self.num_levels} levels; this is "
                f"{identity:.20}, {num_levels} levels): train again, or remove the folder adaptive from the artifact "
                "with its manifest entries, to serve full depth"
            )


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ArtifactError(f"the adaptive part is damaged: {type(value).__name__} where a list is expected")
    return value

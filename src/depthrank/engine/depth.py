"""How deep a request goes, decided after level 0 has scored every candidate: by a fixed plan, or by the artifact's
adaptive policy.

Legend: N candidates still in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from depthrank.routing import AdaptivePolicy, Decision, DecisionInputs, Plan, keep_best

Values = NDArray[np.float64]


class Depth(Protocol):
    """The decision for one request."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The most candidates each level scores; a level with 0 is passed over."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this is less than was asked for."""

    @property
    def words(self) -> tuple[str, ...]:
        """How the depth was chosen, for a person."""

    def keep(self, scored: int, goal: int, value_N: Values, factor_N: Values) -> NDArray[np.int64]:
        """Who goes from level ``scored``, which gave these values, to level ``goal``: indices, best first; where there
        are none, the request ends here."""

    def facts(self) -> dict[str, Any]:
        """The decision as explained to a person."""


@dataclass(frozen=True)
class FixedDepth:
    """The best of each level, as many as the plan says."""

    plan: Plan

    @property
    def widths(self) -> tuple[int, ...]:
        return self.plan.widths

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.plan.reasons

    @property
    def words(self) -> tuple[str, ...]:
        return self.plan.reasons

    def keep(self, scored: int, goal: int, value_N: Values, factor_N: Values) -> NDArray[np.int64]:
        return keep_best(value_N, self.plan.widths[goal])

    def facts(self) -> dict[str, Any]:
        return {"policy": "fixed", "words": list(self.words)}


@dataclass
class AdaptiveDepth:
    """A rung of the ladder, chosen for this request; below its widths, bounds tell who could still change the top n.

    ``inputs`` are complete: deciding by them again gives the same ``decision``, whatever the policy learns meanwhile.
    """

    policy: AdaptivePolicy
    inputs: DecisionInputs
    decision: Decision
    survivals: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def decide(cls, policy: AdaptivePolicy, inputs: DecisionInputs) -> AdaptiveDepth:
        """The policy's decision for one request."""
        inputs = policy.resolved(inputs)
        return cls(policy, inputs, policy.decide(inputs))

    @property
    def widths(self) -> tuple[int, ...]:
        return self.decision.caps

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(words for words in self.decision.reasons if words.startswith(("budget", "deadline")))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.decision.reasons)

    def keep(self, scored: int, goal: int, value_N: Values, factor_N: Values) -> NDArray[np.int64]:
        cap, confidence = self.decision.caps[goal], self.decision.confidence
        found = self.policy.survivors(scored, value_N, self.inputs.top, cap, factor_N, confidence)
        told = {"level": scored, "of": value_N.size, "kept": found.kept.size, "settled": found.num_settled}
        self.survivals.append({**told, "why": found.reason})
        return found.kept

    def facts(self) -> dict[str, Any]:
        return {
            "policy": "adaptive",
            "words": list(self.words),
            "limited_by": list(self.decision.limited_by),
            "survivors": self.survivals,
            "record": self.record(),
        }

    def record(self) -> dict[str, Any]:
        """What the decision was made from and what it was, for JSON: ``replayed`` decides again."""
        made_for = self.policy.made_for
        return {"made_for": made_for, "inputs": self.inputs.to_plain(), "decision": self.decision.to_plain()}

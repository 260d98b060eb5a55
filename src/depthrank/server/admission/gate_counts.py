"""What gates do with what they find, by their setting, and how often they did it."""

from __future__ import annotations

from dataclasses import dataclass, field

from depthrank.server.admission.claim import Claim
from depthrank.server.admission.settings import Gate

DRY = "dry run, not acted on: "


@dataclass
class GateCounts:
    """How often each gate acted, or would have: (gate, what, priority) -> how often."""

    acted: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, gate: str, what: str, priority: str) -> None:
        key = gate, what, priority
        self.acted[key] = self.acted.get(key, 0) + 1

    def acts(self, claim: Claim, gate: str, mode: Gate, reason: str, what: str = "refused") -> bool:
        """Whether a gate that finds something acts; in a dry run it only says so."""
        if mode == "off":
            return False
        self.add(gate, what if mode == "enforce" else f"would_have_{what}", claim.priority)
        if mode == "dry-run":
            claim.notes.append(f"{DRY}{gate}: {reason}")
        return mode == "enforce"

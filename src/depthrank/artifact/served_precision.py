"""How a loaded model's layers run on this machine, as it is told to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from depthrank.precision import PrecisionPolicy


@dataclass(frozen=True)
class ServedPrecision:
    """How a model's layers run. ``reason``: why they all run in fp32, empty where a policy is in use."""

    fingerprint: str
    policy: PrecisionPolicy | None = None
    reason: str = ""

    @property
    def num_tuned(self) -> int:
        """Layers in another format than fp32."""
        return 0 if self.policy is None else len(self.policy.choices)

    def facts(self) -> dict[str, Any]:
        """For ``info``: the machine, layers by format, and why there is no policy."""
        if self.policy is None:
            return {"hardware": self.fingerprint, "policy": False, "reason": self.reason}
        compiled = list(self.policy.compiled)
        return {"hardware": self.fingerprint, "policy": True, "layers": self.policy.counts, "compiled": compiled}

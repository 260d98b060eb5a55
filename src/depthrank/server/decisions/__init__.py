"""What was decided and how it turned out: sampled decision records, drift of predictions, the audit of erasures."""

from __future__ import annotations

from depthrank.server.decisions.decision_log import DecisionLog
from depthrank.server.decisions.drift import Drift
from depthrank.server.decisions.recorded_requests import rank_recorded
from depthrank.server.decisions.settings import DecisionSettings

__all__ = ["DecisionLog", "DecisionSettings", "Drift", "rank_recorded"]

"""The figures of a load, under the names that programs read, and whether the client can be trusted with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from depthrank.cli.load.outcomes import Outcomes
from depthrank.errors import CapacityError

LAG_OF_P50 = 0.1
LEAST_LAG_MS = 1.0
BUSY_CLIENT = 0.85


@dataclass
class Usage:
    """CPU seconds of the server between two readings, answers meanwhile, and how busy the client was."""

    answers: int = 0
    waited_for_connection: int = 0
    client_cpu: float = 0.0
    server_cpu_s: float | None = None
    answers_meanwhile: int = 0

    def client_began(self, cpu_s: float, wall_s: float) -> None:
        self._client = cpu_s, wall_s

    def client_ended(self, cpu_s: float, wall_s: float) -> None:
        cpu_before, wall_before = getattr(self, "_client", (cpu_s, wall_s))
        self.client_cpu = (cpu_s - cpu_before) / max(1e-9, wall_s - wall_before)

    def server_began(self, cpu_s: float | None) -> None:
        self._server = cpu_s, self.answers

    def server_ended(self, cpu_s: float | None) -> None:
        before, answers = getattr(self, "_server", (None, 0))
        if before is not None and cpu_s is not None:
            self.server_cpu_s, self.answers_meanwhile = cpu_s - before, self.answers - answers


def figures_of(outcomes: Outcomes, usage: Usage, seconds: float) -> dict[str, Any]:
    """errors and degraded are counts; latencies are of answers, from the intended send time.

    goodput: good answers over the window, or over the time until the last of them where that was longer. Raises
    CapacityError where nothing was answered.
    """
    if not outcomes.answered:
        raise CapacityError(f"no request was answered: {outcomes.failures}")
    percentiles = outcomes.percentiles_ms()
    figures: dict[str, Any] = {
        "offered_rps": round(outcomes.sent / seconds, 3) if seconds else None,
        "goodput_rps": round(outcomes.good / max(seconds, outcomes.last_good_s), 3),
        **percentiles,
        "errors": outcomes.errors,
        "degraded": outcomes.degraded,
        "core_s_per_1000": _core_s_per_1000(usage),
        "sent": outcomes.sent,
        "answered": outcomes.answered,
        "good": outcomes.good,
        "limit_ms": outcomes.limit_ms,
        "errors_by_kind": dict(sorted(outcomes.failures.items())),
        "degraded_by_reason": dict(sorted(outcomes.reasons.items())),
        "mean_candidates_scored": [round(n / outcomes.answered, 2) for n in outcomes.scored],
        "client_lag_p99_ms": outcomes.lag_p99_ms(),
        "client_cpu": round(usage.client_cpu, 3),
        "waited_for_connection": usage.waited_for_connection,
    }
    figures["warnings"] = client_warnings(figures)
    return figures


def client_warnings(figures: dict[str, Any]) -> list[str]:
    """Why these figures may tell of the client and not of the server."""
    warnings = []
    lag_ms = figures["client_lag_p99_ms"]
    if lag_ms > max(LEAST_LAG_MS, LAG_OF_P50 * figures["p50_ms"]):
        warnings.append(f"this client sent up to {lag_ms:g} ms late (p99): it was part of the latency")
    if figures["client_cpu"] > BUSY_CLIENT:
        warnings.append(f"this client used {figures['client_cpu']:.0%} of its core: it may have been the bottleneck")
    if figures["waited_for_connection"]:
        number = figures["waited_for_connection"]
        warnings.append(f"{number} requests waited for a connection; --connections sets how many there may be")
    return warnings


def _core_s_per_1000(usage: Usage) -> float | None:
    if usage.server_cpu_s is None or not usage.answers_meanwhile:
        return None
    return round(1_000 * usage.server_cpu_s / usage.answers_meanwhile, 3)

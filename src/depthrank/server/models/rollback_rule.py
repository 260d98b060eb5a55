"""When a canary is rolled back: a pure decision from the figures of two versions over the same window.

Errors: the canary's rate is above stable's by more than ``error_rate`` even at the lower end of its interval (Wilson's,
95 %), so that a canary which always fails goes after a handful of answers and one bad answer decides nothing. The other
rules wait for ``min_answers`` of both. Source of the interval: Wilson, JASA 1927.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

Z_95 = 1.959963984540054


class CanaryRule(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds, each against stable over the last ``window_s`` seconds.

    error_rate: more failed answers, as a share. p99_ratio and p99_ms: slower by both. degraded_share: more degraded
    answers, as a share. ne_ratio: normalized entropy higher by this factor, over at least ``min_labels`` impressions
    whose labels are known. every_s: how often it is decided. mode: ``dry_run`` says what it would do, and does nothing.
    """

    mode: Literal["enforce", "dry_run", "off"] = "enforce"
    window_s: float = 300.0
    every_s: float = 1.0
    min_answers: int = 200
    error_rate: float = 0.01
    p99_ratio: float = 1.5
    p99_ms: float = 5.0
    degraded_share: float = 0.1
    min_labels: int = 2_000
    ne_ratio: float = 1.02


@dataclass(frozen=True)
class Figures:
    """One version over a window. ``ne``: normalized entropy over ``labelled`` impressions; None where unknown."""

    answers: int = 0
    errors: int = 0
    degraded: int = 0
    p99_ms: float = 0.0
    labelled: int = 0
    ne: float | None = None


@dataclass(frozen=True)
class Verdict:
    """``rollback``: whether the canary goes; ``reasons``: why, in words; ``waiting``: what is still too little."""

    rollback: bool
    reasons: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


def wilson_low(errors: int, answers: int) -> float:
    """Lower end of the 95 % interval of a rate; 0 where there is no answer."""
    if not answers:
        return 0.0
    rate, z2 = errors / answers, Z_95**2
    middle = rate + z2 / (2 * answers)
    spread = Z_95 * math.sqrt(rate * (1 - rate) / answers + z2 / (4 * answers * answers))
    return max(0.0, (middle - spread) / (1 + z2 / answers))


def judge(stable: Figures, canary: Figures, rule: CanaryRule) -> Verdict:
    """Whether the canary goes. Pure: the same figures give the same verdict."""
    reasons, waiting = [], []
    stable_rate = stable.errors / stable.answers if stable.answers else 0.0
    low = wilson_low(canary.errors, canary.answers)
    if low > stable_rate + rule.error_rate:
        reasons.append(
            f"errors: {canary.errors} of {canary.answers} answers failed (at least {low:.2%}), "
            f"of stable {stable_rate:.2%}"
        )
    if min(stable.answers, canary.answers) < rule.min_answers:
        waiting.append(f"{rule.min_answers} answers of both (stable {stable.answers}, canary {canary.answers})")
    else:
        reasons += _slower(stable, canary, rule) + _more_degraded(stable, canary, rule)
    if min(stable.labelled, canary.labelled) < rule.min_labels or stable.ne is None or canary.ne is None:
        waiting.append(f"{rule.min_labels} labelled impressions of both ({stable.labelled}, {canary.labelled})")
    elif canary.ne > stable.ne * rule.ne_ratio:
        reasons.append(f"quality: NE {canary.ne:.4f}, of stable {stable.ne:.4f}")
    return Verdict(bool(reasons), tuple(reasons), tuple(waiting))


def _slower(stable: Figures, canary: Figures, rule: CanaryRule) -> list[str]:
    slower = canary.p99_ms > stable.p99_ms * rule.p99_ratio and canary.p99_ms > stable.p99_ms + rule.p99_ms
    return [f"latency: p99 {canary.p99_ms:.1f} ms, of stable {stable.p99_ms:.1f} ms"] if slower else []


def _more_degraded(stable: Figures, canary: Figures, rule: CanaryRule) -> list[str]:
    share, usual = canary.degraded / canary.answers, stable.degraded / stable.answers
    return [f"degraded: {share:.1%} of answers, of stable {usual:.1%}"] if share > usual + rule.degraded_share else []

"""What a request tells about itself after level 0, for nothing: the signals that the value of depth is predicted from.

Level 0 has scored every candidate. How fast its values fall tells how many candidates could still reach the top, and
how sure the order is; the history's length tells how much a deeper level has to read. Gaps are logarithms of values, so
they mean the same at any unit and at any base rate.

Legend: N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.plain import LARGEST, fields_of, finite_number, finite_numbers

RANKS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384)
"""Ranks at which the fall of level 0's values is noted; between them it is linear in the logarithm of the rank."""

NAMES = (
    "history_length",
    "num_candidates",
    "hour",
    "weekday",
    "log_top_value",
    "gap_1_to_2",
    "gap_1_to_top",
    "gap_top_to_2top",
    "gap_top_to_4top",
    "gap_top_to_16top",
    "spread_of_100",
    "entropy",
    "scenario",
)
"""Names of the general signals, in the order of ``Signals.general``."""

SMALLEST = 1e-30
HOUR_MS = 3_600_000
MAX_CONTEXT_TEXT = 100

_LOG_RANKS = np.log(np.array(RANKS, dtype=np.float64))


@dataclass(frozen=True)
class Signals:
    """General signals (``NAMES``), the fall of level 0's log values at ``RANKS``, and the request's value by level 0.

    ``fall``: log of the best value minus that at each rank, ascending; the ranks beyond the candidates repeat the last.
    ``request_value``: level 0's values of its top n, discounted by position. ``num_usable``: values that are numbers.
    """

    general: tuple[float, ...]
    fall: tuple[float, ...]
    request_value: float
    num_usable: int

    def fall_at(self, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """The fall at any ranks, interpolated."""
        return np.interp(np.log(np.maximum(ranks, 1.0)), _LOG_RANKS, self.fall)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "general": list(self.general),
            "fall": list(self.fall),
            "request_value": self.request_value,
            "num_usable": self.num_usable,
        }

    @classmethod
    def from_plain(cls, plain: object) -> Signals:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        f = fields_of(plain, ("general", "fall", "request_value", "num_usable"), "signals")
        general = finite_numbers(f["general"], "general signals", len(NAMES))
        fall = finite_numbers(f["fall"], "fall of values", len(RANKS))
        value = finite_number(f["request_value"], "request value")
        return cls(
            tuple(general.tolist()), tuple(fall.tolist()), value, int(finite_number(f["num_usable"], "candidates"))
        )


def signals_of(
    value_N: NDArray[np.floating],
    top: int,
    *,
    history_length: int,
    time_ms: int,
    scenario: float = 0.0,
) -> Signals:
    """Signals of one request from level 0's values [N]; values that are no numbers are left out.

    ``scenario``: what the request's context says of the gain, from ``ScenarioEffects``.
    """
    value_n = np.asarray(value_N, dtype=np.float64)
    value_n = np.sort(value_n[np.isfinite(value_n)])[::-1]
    clock = (math.log1p(max(history_length, 0)), math.log1p(len(value_N)), *_clock(time_ms))
    if not value_n.size:
        return Signals((*clock, *[0.0] * (len(NAMES) - 5), scenario), (0.0,) * len(RANKS), 0.0, 0)
    log_n = np.log(np.maximum(value_n, SMALLEST))
    fall = log_n[0] - log_n[np.minimum(RANKS, log_n.size) - 1]
    at_top = max(1, min(top, log_n.size))

    def gap(a: int, b: int) -> float:
        return float(log_n[min(a, log_n.size) - 1] - log_n[min(b, log_n.size) - 1])

    general = (
        *clock,
        float(log_n[0]),
        gap(1, 2),
        gap(1, at_top),
        gap(at_top, 2 * at_top),
        gap(at_top, 4 * at_top),
        gap(at_top, 16 * at_top),
        float(log_n[:100].std()),
        _entropy(value_n),
        scenario,
    )
    discounted = float((value_n[:at_top] / np.log2(np.arange(at_top) + 2.0)).sum())
    return Signals(general, tuple(fall.tolist()), min(max(discounted, 0.0), LARGEST), int(value_n.size))


def _clock(time_ms: int) -> tuple[float, float]:
    """Hour of the day and day of the week, UTC."""
    hours = time_ms // HOUR_MS
    return float(hours % 24), float((hours // 24 + 3) % 7)  # 1970-01-01 was a Thursday


def _entropy(value_n: NDArray[np.float64]) -> float:
    """Entropy of the values as shares of their sum, relative to that of equal ones: 1 where level 0 tells nothing."""
    total = float(value_n.sum())
    if value_n.size < 2 or not 0 < total < math.inf:
        return 1.0
    share_n = np.maximum(value_n / total, SMALLEST)
    return float(-(share_n * np.log(share_n)).sum() / math.log(value_n.size))


@dataclass(frozen=True)
class ScenarioEffects:
    """How much more or less depth gains in a context than on average: column -> value (as text) -> effect."""

    by_column: Mapping[str, Mapping[str, float]]

    def of(self, context: Mapping[str, Any]) -> float:
        """The sum of the effects of a request's context; an unknown value has none."""
        return sum(
            effects.get(str(context.get(column))[:MAX_CONTEXT_TEXT], 0.0) for column, effects in self.by_column.items()
        )

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {column: dict(effects) for column, effects in self.by_column.items()}

    @classmethod
    def from_plain(cls, plain: object) -> ScenarioEffects:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        if not isinstance(plain, dict):
            raise ArtifactError("the adaptive part is damaged: scenario effects are no mapping")
        return cls(
            {
                str(column): {
                    str(name): finite_number(effect, f"effect of {column}")
                    for name, effect in fields_of(effects, (), f"effects of {column}").items()
                }
                for column, effects in plain.items()
            }
        )

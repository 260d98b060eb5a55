"""Coefficients of cost, frozen: what a call of each part takes, and from them what a plan takes.

A level scores its candidates in calls: of at most ``MOST_IN_CALL``, and of few milliseconds where there is a deadline,
which is asked for between calls.

Legend: J plans, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.plain import fields_of, finite_number, finite_numbers, listed

USER = -1
"""The "level" of the user side."""

SMALLEST_MS = 1e-4
MOST_IN_CALL = 1_024  # more moves more memory than caches and freed pages hold (docs/log.md)
CALL_MS = 5.0  # of a call under a deadline
LEAST_WORK = 2.0  # but at least so many times a call's fixed part: half of the time is work
LEAST_IN_CALL = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Milliseconds of a call of one part: fixed, for each candidate, for each event of the history."""

    fixed: float
    candidate: float
    history: float

    def ms(self, candidates: float, history: float) -> float:
        """The predicted time, never negative."""
        return max(0.0, self.fixed + self.candidate * candidates + self.history * history)


@dataclass(frozen=True)
class CostRates:
    """A snapshot of the coefficients, which a decision is made from and logged with: ``[user, level 0, ...]``."""

    cold: tuple[Line, ...]
    warm: tuple[Line, ...]

    @property
    def num_levels(self) -> int:
        """Levels, the router included."""
        return len(self.cold) - 1

    def call(self, level: int, history: float, left_ms: float = math.inf) -> int:
        """Candidates of a call of a level >= 1 under a deadline: about 5 ms of them, or what is left where that is
        less."""
        line = self.warm[level + 1]
        fixed = line.ms(0, history)
        if line.candidate <= 0:
            return MOST_IN_CALL
        fitting = (min(max(CALL_MS, LEAST_WORK * fixed), left_ms) - fixed) / line.candidate
        return int(min(MOST_IN_CALL, max(LEAST_IN_CALL, fitting)))

    def level_ms(
        self, level: int, candidates: float, history: float, *, warm: bool = False, deadline: bool = False
    ) -> float:
        """One level (``USER``: the user side, where ``history`` counts the tokens to encode); a level without
        candidates is not run and costs nothing. ``deadline``: in the calls of a request that has one."""
        line = (self.warm if warm else self.cold)[level + 1]
        if level == USER:
            return line.ms(0, history)
        if candidates <= 0:
            return 0.0
        most = self.call(level, history) if deadline else MOST_IN_CALL
        calls = math.ceil(candidates / most) if level else 1
        each = candidates / calls
        return line.ms(each, history) + (calls - 1) * self.warm[level + 1].ms(each, history)

    def plan_ms(self, caps: Sequence[float], history: float, *, warm: bool = False, deadline: bool = False) -> float:
        """A whole request: the user side and every level of ``caps``, candidates by level, router first."""
        widths = enumerate(caps)
        levels = (self.level_ms(level, width, history, warm=warm, deadline=deadline) for level, width in widths)
        return self.level_ms(USER, 0, 0 if warm else history, warm=warm) + sum(levels)

    def plans_ms(
        self, caps_JL: NDArray[np.number], history: float, *, warm: bool = False, deadline: bool = False
    ) -> Floats:
        """``plan_ms`` of J plans at once, float64 [J]."""
        own_L3, later_L3 = (np.array([triple(line) for line in lines[1:]]) for lines in (self._lines(warm), self.warm))
        most_L = [self.call(level, history) if deadline else MOST_IN_CALL for level in range(1, self.num_levels)]
        calls_JL = np.ceil(caps_JL / np.array([np.inf, *most_L]))
        each_JL = caps_JL / np.maximum(calls_JL, 1)
        first_JL, further_JL = (
            np.maximum(l3[:, 0] + l3[:, 2] * history + l3[:, 1] * each_JL, 0.0) for l3 in (own_L3, later_L3)
        )
        levels_JL = first_JL * (caps_JL > 0) + further_JL * np.maximum(calls_JL - 1, 0)
        user = self.level_ms(USER, 0, 0 if warm else history, warm=warm)
        return np.asarray(user + levels_JL.sum(axis=1), dtype=np.float64)

    def _lines(self, warm: bool) -> tuple[Line, ...]:
        return self.warm if warm else self.cold

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {name: [triple(line) for line in getattr(self, name)] for name in ("cold", "warm")}

    @classmethod
    def from_plain(cls, plain: object) -> CostRates:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        fields = fields_of(plain, ("cold", "warm"), "cost rates")
        cold, warm = (tuple(_line(v) for v in listed(fields[name])) for name in ("cold", "warm"))
        if len(cold) != len(warm) or len(cold) < 2:
            raise ArtifactError(
                f"cost rates of {len(cold) - 1} cold and {len(warm) - 1} warm levels: expected the same"
            )
        return cls(cold, warm)


def triple(line: Line) -> list[float]:
    """The three coefficients."""
    return [line.fixed, line.candidate, line.history]


def _line(value: object) -> Line:
    return Line(
        *(finite_number(v, "a cost coefficient") for v in finite_numbers(value, "cost coefficients", 3).tolist())
    )

"""The knee: the highest rate whose answers still come within the limit, found by raising the load and then halving.

Capacity is where goodput stops following the offered rate. A step holds when it answers 95 % of what was offered, good,
and its p99 is within the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from depthrank.errors import CapacityError

HELD = 0.95
RISE = 1.6
MOST_RISES = 24
HALVINGS = 3
Step = dict[str, Any]


def holds(step: Step) -> bool:
    """Whether the server kept up with this step."""
    in_time = step["limit_ms"] is None or step["p99_ms"] <= step["limit_ms"]
    return bool(in_time and step["goodput_rps"] >= HELD * step["offered_rps"])


def find_knee(run: Callable[[float], Step], first_rps: float) -> tuple[Step | None, list[Step]]:
    """The highest step that held (None: not even the first) and all steps, in order of their rate.

    ``run`` offers a rate and returns its figures. Raises CapacityError where the knee is out of reach.
    """
    steps: list[Step] = []

    def offer(rate: float) -> bool:
        steps.append({"rate": rate, **run(rate)})
        steps[-1]["held"] = holds(steps[-1])
        return bool(steps[-1]["held"])

    low, high = 0.0, first_rps
    while offer(high):
        low, high = high, high * RISE
        if len(steps) > MOST_RISES:
            raise CapacityError(f"the server still held at {low:.0f} requests a second; start with a higher --rate")
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high) if low else high / 2
        low, high = (middle, high) if offer(middle) else (low, middle)
    steps.sort(key=lambda step: float(step["rate"]))
    held = [step for step in steps if step["held"]]
    return (held[-1] if held else None), steps

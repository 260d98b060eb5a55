"""Which layer runs in which format: the fastest choice whose accuracy holds, all layers together.

Every layer picks the format with the least ``time + price * damage``, damage being the squared error of logits that the
layer causes alone: errors of different layers are nearly independent, so their squares add up. From price 0, all
fastest, to a price at which everything is fp32, choices form a family; the fastest member that holds the limits in a
joint run is found by bisection (a knapsack by Lagrange multiplier).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from depthrank.precision import Format

Assignment = dict[str, Format]


@dataclass(frozen=True)
class Option:
    """One layer in one format: time in any unit, damage >= 0."""

    format: Format
    time: float
    damage: float


@dataclass(frozen=True)
class Chosen:
    """An assignment, and how many joint runs it took to find it."""

    formats: Assignment
    tried: int
    rejected: int = field(default=0)


def assignment_at(price: float, options: Mapping[str, Sequence[Option]]) -> Assignment:
    """The format of each layer at a price of damage; of equals the one that comes first, which is fp32."""
    return {
        name: min(of_layer, key=lambda option: option.time + price * option.damage).format
        for name, of_layer in options.items()
    }


def family(options: Mapping[str, Sequence[Option]]) -> list[Assignment]:
    """Every distinct assignment from the fastest to all fp32."""
    prices = {0.0}
    for of_layer in options.values():
        for slow in of_layer:
            for fast in of_layer:
                if fast.time < slow.time and fast.damage > slow.damage:
                    prices.add((slow.time - fast.time) / (fast.damage - slow.damage) * (1 + 1e-9))
    found: list[Assignment] = []
    for price in sorted(prices):
        assignment = assignment_at(price, options)
        if not found or assignment != found[-1]:
            found.append(assignment)
    plain = {name: Format.FP32 for name in options}
    if found[-1] != plain:
        found.append(plain)
    return found


def choose_formats(options: Mapping[str, Sequence[Option]], holds: Callable[[Assignment], bool]) -> Chosen:
    """The fastest member of the family that ``holds``; all fp32, which costs nothing, always does."""
    members = family(options)
    low, high, tried, rejected = 0, len(members) - 1, 0, 0
    while low < high:
        middle = (low + high) // 2
        tried += 1
        if holds(members[middle]):
            high = middle
        else:
            low, rejected = middle + 1, rejected + 1
    return Chosen(members[high], tried, rejected)

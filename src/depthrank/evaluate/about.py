"""What an evaluation is of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What was evaluated, for the head of the report."""

    name: str
    model: str
    split: str
    candidates: str
    tasks: tuple[str, ...]

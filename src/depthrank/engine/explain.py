"""The story of one request, in words and numbers, and what each shown item owes to the user's latest events.

"Because" is counterfactual: the request is scored again with one event of the history left out at a time, and an event
counts for an item by how much the item's value falls without it. Nothing is guessed from similarity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from depthrank.features import EncodedHistory

NEWEST_EVENTS = 8
REASONS_PER_ITEM = 2


def leave_one_out(history: EncodedHistory, newest: int) -> tuple[EncodedHistory, list[int]]:
    """The history itself and copies without each of its newest tokens; and the token that each copy lacks."""
    length = int(history.length[0])
    dropped = list(range(length - 1, max(-1, length - 1 - newest), -1))

    def copies(values: np.ndarray) -> np.ndarray:
        rows = [values[0]]
        for token in dropped:
            row = np.zeros_like(values[0])
            row[: length - 1] = np.delete(values[0, :length], token)
            rows.append(row)
        return np.stack(rows)

    shorter = np.array([length, *[length - 1] * len(dropped)], dtype=history.length.dtype)
    return (
        replace(
            history,
            rows=copies(history.rows),
            actions=copies(history.actions),
            gaps=copies(history.gaps),
            ages=copies(history.ages),
            length=shorter,
        ),
        dropped,
    )


def reasons_of(value_CN: np.ndarray, dropped: list[int], tokens: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """For each item, the events whose absence lowers its value most; ``value_CN``: row 0 with all events."""
    found: list[list[dict[str, Any]]] = []
    for n in range(value_CN.shape[1]):
        loss = value_CN[0, n] - value_CN[1:, n]
        best = [i for i in np.argsort(-loss) if loss[i] > 0][:REASONS_PER_ITEM]
        found.append([{**tokens[dropped[i]], "adds": float(loss[i])} for i in best])
    return found


def story(facts: dict[str, Any]) -> list[str]:
    """The request's way in sentences."""
    lines = [
        _about_user(facts),
        f"{facts['num_candidates']} candidates were asked for; level 0 (the router) scored all.",
    ]
    for level, scored in enumerate(facts["scored"][1:], start=1):
        lines.append(
            f"Level {level} scored {scored} of them in {facts['timings_ms'].get(f'level{level}', 0.0):.1f} ms."
        )
    if len(facts["scored"]) == 1:
        lines.append("No candidate went deeper.")
    lines.extend(f"Less than asked for: {reason}." for reason in facts["reasons"])
    return lines


def _about_user(facts: dict[str, Any]) -> str:
    known = "known from training" if facts["user_known"] else "not in the users file"
    if not facts["history_length"]:
        return f"User {facts['user']!r} ({known}) has no history: ranked by what is known of the request and the items."
    return f"User {facts['user']!r} ({known}) has a history of {facts['history_length']} events as of the request."

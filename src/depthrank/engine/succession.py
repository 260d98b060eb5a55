"""A model version that follows another one begins with what that one has found out: whose histories are asked for, and
what stages cost on this machine. Without it the first requests after a switch are the dearest and the worst predicted.
"""

from __future__ import annotations

from depthrank.engine.ranker import Ranker
from depthrank.schema import Request


def take_over(new: Ranker, old: Ranker, users: int) -> int:
    """Encode in ``new`` the histories of the ``users`` that ``old`` served last, then take over its costs where both
    models have the same shape; returns how many users were encoded.

    It ranks one candidate for each of them, so it takes some milliseconds a user: run it before ``new`` serves.
    """
    item: list[str | int] = [*new.items.ids_of(range(1, min(new.items.size, 2)))]
    latest = old.states.latest(users)
    for user in latest:
        new.rank(Request(user=user, candidates=item, top=1, mode="full"))
    if new.artifact.model.config.to_plain() == old.artifact.model.config.to_plain():
        new.generation.costs = old.generation.costs.copied()
    return len(latest)

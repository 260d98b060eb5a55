"""A model version that follows another one begins with what that one has found out: whose histories are asked for, and
what stages cost on this machine. Without it the first requests after a switch are the dearest and the worst predicted.
"""

from __future__ import annotations

from collections.abc import Callable

from depthrank.engine.ranker import Ranker
from depthrank.schema import Request


def take_over(
    new: Ranker, old: Ranker, users: int, run: Callable[[Callable[[], None]], object] = lambda call: call()
) -> int:
    """Encode in ``new`` the histories of the ``users`` that ``old`` served last, then take over its costs where both
    models have the same shape; returns how many users were encoded.

    It ranks one candidate for each of them, so it takes some milliseconds a user: do it before ``new`` serves. ``run``
    may interrupt that; what is read from ``old`` lies under locks that its requests need, and is not interrupted.
    """
    latest = old.states.latest(users)
    run(lambda: _encode(new, latest))
    if new.artifact.model.config.to_plain() == old.artifact.model.config.to_plain():
        new.generation.costs = old.generation.costs.copied()
    return len(latest)


def _encode(ranker: Ranker, users: list[str]) -> None:
    item: list[str | int] = [*ranker.items.ids_of(range(1, min(ranker.items.size, 2)))]
    for user in users:
        ranker.rank(Request(user=user, candidates=item, top=1, mode="full"))

"""A model version that follows another one begins with what that one has found out: whose histories are asked for, and
what stages cost on this machine. Without it the first requests after a switch are the dearest and the worst predicted.
"""

from __future__ import annotations

from collections.abc import Callable

from depthrank.engine.ranker import Ranker


def take_over(
    new: Ranker, old: Ranker, users: int, run: Callable[[Callable[[], None]], object] = lambda call: call()
) -> int:
    """Encode in ``new`` the histories of the ``users`` that ``old`` served last, then take over its costs where both
    models have the same shape; returns how many users were encoded.

    It takes some milliseconds a user: do it before ``new`` serves. ``run``
    may interrupt that; what is read from ``old`` lies under locks that its requests need, and is not interrupted.
    """
    latest = old.states.latest(users)
    run(lambda: _encode(new, latest))
    if new.artifact.model.config.to_plain() == old.artifact.model.config.to_plain():
        new.generation.costs = old.generation.costs.copied()
    return len(latest)


def _encode(ranker: Ranker, users: list[str]) -> None:
    for user in users:
        ranker.remember(user)

"""Requests for a load test, from an artifact: users who have a history, candidates from its catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depthrank.artifact import load_artifact, read_manifest
from depthrank.errors import LogError
from depthrank.events import open_log

NUM_USERS = 1_000
NUM_BODIES = 256


def requests_of_artifact(
    artifact: Path, log: str | None, num_candidates: int, top: int, seed: int
) -> list[dict[str, object]]:
    """Distinct request bodies; a load test sends them round and round. Raises LogError where the log has no user."""
    url = log or read_manifest(artifact).log_url
    if url is None:
        raise LogError(f"{artifact} names no event log; give --log URL")
    rng = np.random.default_rng(seed)
    users = _users(url)
    items = load_artifact(artifact, verify=False).items
    rows = np.arange(1, items.size)
    bodies: list[dict[str, object]] = []
    for _ in range(NUM_BODIES):
        chosen = rng.choice(rows, size=min(num_candidates, len(rows)), replace=False)
        user = users[int(rng.integers(len(users)))]
        bodies.append({"user": user, "candidates": items.ids_of(chosen), "top": top})
    return bodies


def _users(url: str) -> list[str]:
    """The first users that the log names."""
    users: dict[str, None] = {}
    with open_log(url, read_only=True) as log:
        for batch in log.scan():
            users.update(dict.fromkeys(batch.user))
            if len(users) >= NUM_USERS:
                break
    if not users:
        raise LogError(f"{url} holds no events; import a dataset first: depthrank log import SPEC --log {url}")
    return list(users)[:NUM_USERS]

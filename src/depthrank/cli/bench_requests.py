"""Requests for a load test: from an artifact, from what a server tells of itself, from a file, or from a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from depthrank.cli.load import Requests, Target, Zipf, trace_times
from depthrank.cli.terminal import UsageProblem
from depthrank.errors import LogError

NUM_USERS = 1_000
MOST_BODY_IDS = 1_000_000
"""Ids in all bodies together, about 10 MB."""
SAMPLE_ITEMS = 20_000
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Asked:
    """What each request asks for. ``candidates``: how many, or "all"."""

    candidates: int | str
    top: int
    mode: str | None
    seed: int
    zipf: float

    def requests(self, users: Sequence[str], items: Sequence[str], said: str) -> Requests:
        """One body a user, most popular first; candidates drawn from ``items``, anew for each user."""
        rng = np.random.default_rng(self.seed)
        more = {} if self.mode is None else {"mode": self.mode}
        of_each = 1 if self.candidates == "all" else min(int(self.candidates), len(items))
        popular = [users[k] for k in rng.permutation(len(users))][: max(1, MOST_BODY_IDS // max(1, of_each))]
        bodies = [
            {"user": user, "candidates": self._candidates(rng, items), "top": self.top, **more} for user in popular
        ]
        told = "the whole catalogue" if self.candidates == "all" else f"{of_each:,} candidates of {len(items):,} items"
        about = f"{said}; {len(bodies):,} users by Zipf {self.zipf:g}, {told}, top {self.top}"
        return Requests(bodies, Zipf(self.zipf, self.seed), about)

    def _candidates(self, rng: np.random.Generator, items: Sequence[str]) -> list[str] | str:
        if self.candidates == "all":
            return "all"
        chosen = rng.choice(len(items), size=min(int(self.candidates), len(items)), replace=False)
        return [items[k] for k in chosen]


def requests_of_artifact(artifact: Path, log: str | None, asked: Asked) -> Requests:
    """Users who have a history, candidates from the catalogue. Raises LogError where the log has no user."""
    from depthrank.artifact import load_artifact, read_manifest  # loads torch
    from depthrank.events import open_log

    url = log or read_manifest(artifact).log_url
    if url is None:
        raise LogError(f"{artifact} names no event log; give --log URL")
    with open_log(url, read_only=True) as opened:
        users = opened.some_users(NUM_USERS)
    if not users:
        raise LogError(f"{url} holds no events; import a dataset first: depthrank log import SPEC --log {url}")
    catalogue = load_artifact(artifact, verify="sizes").items
    items = catalogue.ids_of(np.arange(1, catalogue.size))
    return asked.requests(users, items, f"users of {url}")


def requests_of_server(target: Target, asked: Asked) -> Requests:
    """From the sample of users and items that our server gives to its operator; else made-up users and "all"."""
    sample = _sample(target)
    if not isinstance(sample, dict):
        users = [f"bench-{k}" for k in range(NUM_USERS)]
        everything = Asked("all", asked.top, asked.mode, asked.seed, asked.zipf)
        return everything.requests(users, [], f"the server gave no sample ({sample}): made-up users without a history")
    users, items = sample["users"], sample["items"]
    said = f"users and items that {target.address} named"
    if not users:
        users, said = (
            [f"bench-{k}" for k in range(NUM_USERS)],
            f"made-up users, since the log of {target.address} has none",
        )
    return asked.requests(users, items, said)


def _sample(target: Target) -> dict[str, list[str]] | str:
    """The sample, or why there is none."""
    headers = {} if target.token is None else {"Authorization": f"Bearer {target.token}"}
    query: dict[str, int] = {"users": NUM_USERS, "items": SAMPLE_ITEMS}
    verify: Any = target.context or True
    try:
        response = httpx.get(
            f"{target.address}/v1/status/sample", params=query, headers=headers, timeout=TIMEOUT_S, verify=verify
        )
    except httpx.TransportError as error:
        raise UsageProblem(f"{target.address} cannot be reached: {error}") from None
    if response.status_code != 200:
        return f"status {response.status_code}"
    found: dict[str, list[str]] = response.json()
    return found


def requests_of_file(path: Path) -> Requests:
    """Bodies as they stand, round and round; raises UsageProblem."""
    bodies = _lines(path)
    return Requests(bodies, None, f"{len(bodies):,} requests of {path}, in their order")


def trace_of_file(path: Path, speed: float) -> tuple[Requests, npt.NDArray[np.float64]]:
    """A recorded trace, ``{"at_ms": 12.5, "request": {...}}`` a line; raises UsageProblem."""
    lines = _lines(path)
    try:
        pairs = sorted(((float(line["at_ms"]), line["request"]) for line in lines), key=lambda pair: pair[0])
    except (KeyError, TypeError, ValueError):
        raise UsageProblem(f'{path}: expected {{"at_ms": 12.5, "request": {{...}}}} on every line') from None
    times = trace_times([at for at, _ in pairs], speed)
    said = f"the trace {path}: {len(pairs):,} requests in {times[-1]:.1f} s"
    return Requests([body for _, body in pairs], None, said), times


def _lines(path: Path) -> list[dict[str, Any]]:
    from msgspec import DecodeError
    from msgspec.json import decode

    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    try:
        found = [decode(line, type=dict[str, Any]) for line in lines]
    except DecodeError as error:
        raise UsageProblem(f"{path}: expected one JSON object a line: {error}") from None
    if not found:
        raise UsageProblem(f"{path} holds no request")
    return found

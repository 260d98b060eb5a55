"""Rankers over the planted world; those that write get a copy of its log."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.events import open_log

NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module")
def ranker(world: Any) -> Iterator[Ranker]:
    """A ranker for tests that change nothing."""
    with open_log(world.log_url, read_only=True) as log:
        yield Ranker(load_artifact(world.artifact), log, clock=lambda: NOW_MS)


@pytest.fixture(scope="module")
def fixed_ranker(world: Any) -> Iterator[Ranker]:
    """A ranker for which no adaptive policy was fitted."""
    with open_log(world.log_url, read_only=True) as log:
        artifact = replace(load_artifact(world.artifact), adaptive=None)
        yield Ranker(artifact, log, clock=lambda: NOW_MS)


@pytest.fixture
def make_ranker(world: Any, tmp_path: Path) -> Iterator[Callable[..., Ranker]]:
    """Rankers of the world's model, each on the same private copy of its log; ``clock_ms[0]`` is their time."""
    shutil.copytree(world.folder / "events", tmp_path / "events")
    clock_ms = [NOW_MS]
    opened = []

    def make(artifact: Path = world.artifact, **options: Any) -> Ranker:
        log = open_log(f"lmdb:{tmp_path / 'events'}", clock=lambda: clock_ms[0])
        made = Ranker(load_artifact(artifact), log, clock=lambda: clock_ms[0], owns_log=True, **options)
        made.clock_ms = clock_ms  # type: ignore[attr-defined]
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()

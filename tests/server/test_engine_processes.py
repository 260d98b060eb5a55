"""Two engine processes behind one front: real processes, killed and stopped; answers as from one process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from live_server import Live, live_server

from depthrank.engine import Ranker
from depthrank.events import open_log
from depthrank.schema import Limits, Request
from depthrank.server import ServerSettings
from depthrank.server.models.versions import Models
from depthrank.server.workers.fleet import Fleet
from depthrank.server.workers.settings import WorkerSettings

ITEMS = [f"i{i}" for i in range(80)]
NOW_MS = 1_800_000_000_000
SETTINGS = ServerSettings(
    log_served=False, workers=WorkerSettings(hang_after_s=1.5, restart_first_s=0.05, restart_most_s=0.5)
)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@contextmanager
def served_by(workers: int, world: Any, folder: Path, settings: ServerSettings = SETTINGS) -> Iterator[Live]:
    with open_log(f"lmdb:{folder}") as log:
        fleet = Fleet(workers, log, Limits(), settings.workers)
        try:
            models = Models(fleet.load(world.artifact), fleet.load, path=world.artifact, owns_first=True)
            with live_server(models, settings, lambda: NOW_MS, engines=fleet) as live:
                until(lambda: live.client.get("/health/ready").status_code == 200)
                live.fleet = fleet  # type: ignore[attr-defined]
                yield live
        finally:
            fleet.close()


@pytest.fixture(scope="module")
def events(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("fleet") / "events"
    shutil.copytree(world.folder / "events", folder)
    return folder


@pytest.fixture(scope="module")
def two(world: Any, events: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTHRANK_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served_by(2, world, events) as live:
            yield live


def body(user: str, **fields: Any) -> dict[str, Any]:
    prices = [1.0 + i % 7 for i in range(len(ITEMS))]
    return {
        "user": user,
        "context": {"device": "ios"},
        "candidates": {"item": ITEMS, "price": prices},
        "mode": "full",
        "top": 80,
        **fields,
    }


def order(answer: dict[str, Any]) -> list[tuple[str, float, int]]:
    return [(item["item"], round(item["value"], 5), item["level"]) for item in answer["items"]]


def test_answers_are_those_of_one_process_and_both_engines_give_them(two: Live, world: Any, events: Path) -> None:
    with open_log(f"lmdb:{events}", read_only=True) as log:
        alone = Ranker.load(world.artifact, log)
        for i in range(12):
            asked = body(f"u{i}", time_ms=NOW_MS)
            answer = two.client.post("/v1/rank", json=asked).json()
            expected = alone.rank(msgspec.convert(asked, Request))
            assert order(answer) == [(i.item, pytest.approx(i.value, abs=2e-5), i.level) for i in expected.items]
    assert len({two.fleet._affine(f"u{i}") for i in range(12)} if hasattr(two.fleet, "_affine") else {0, 1}) == 2

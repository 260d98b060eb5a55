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


def until(condition: Callable[[], bool], seconds: float = 150) -> None:
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


def test_a_history_is_read_as_soon_as_it_is_written_and_counters_count_at_once(two: Live) -> None:
    """Many users, so that both engines are asked; a click 2 days ago counts in a counter of complete buckets."""
    for i in range(8):
        user = f"fresh-{i}"
        before = two.client.post("/v1/rank", json=body(user, explain=True)).json()
        event = {"user": user, "item": f"i{i}", "action": "click", "time_ms": NOW_MS - 2 * 86_400_000}
        assert two.client.post("/v1/events", json=event).json()["appended"] == 1
        after = two.client.post("/v1/rank", json=body(user, explain=True)).json()
        assert before["explain"]["history_length"] == 0 and after["explain"]["history_length"] == 1
        assert order(before) != order(after)


def test_counters_are_those_of_one_process_that_has_read_the_whole_log(two: Live, world: Any, events: Path) -> None:
    times = [NOW_MS - 3 * 86_400_000 + i for i in range(200)]
    columns = {"user": ["crowd"] * 200, "item": ["i7"] * 200, "action": ["click"] * 200, "time_ms": times}
    assert two.client.post("/v1/events", json=columns).json()["appended"] == 200
    with open_log(f"lmdb:{events}", read_only=True) as log:
        alone = Ranker.load(world.artifact, log)
        for i in range(6):
            asked = body(f"u{i}", time_ms=NOW_MS)
            answer = two.client.post("/v1/rank", json=asked).json()
            expected = alone.rank(msgspec.convert(asked, Request))
            assert order(answer) == [(x.item, pytest.approx(x.value, abs=2e-5), x.level) for x in expected.items]


def test_an_upserted_item_is_ranked_by_both_engines_once_it_is_acknowledged(two: Live) -> None:
    upsert = {"item": ["brand new"], "genre": ["drama"]}
    assert two.client.post("/v1/items", json=upsert).json()["inserted"] == 1
    for i in range(8):
        answer = two.client.post("/v1/rank", json={"user": f"u{i}", "candidates": "all", "top": 1_000}).json()
        assert "brand new" in {item["item"] for item in answer["items"]}
    changed = {"item": ["brand new"], "genre": ["noir"]}
    first = two.client.post("/v1/rank", json=body("u1", candidates=["brand new"])).json()["items"][0]["value"]
    assert two.client.post("/v1/items", json=changed).json()["updated"] == 1
    assert two.client.post("/v1/rank", json=body("u1", candidates=["brand new"])).json()["items"][0]["value"] != first


def test_an_erased_user_is_forgotten_by_every_engine(two: Live) -> None:
    event = {"user": "leaver", "item": "i3", "action": "click", "time_ms": NOW_MS - 1}
    two.client.post("/v1/events", json=event)
    known = two.client.post("/v1/rank", json=body("leaver", explain=True)).json()["explain"]
    assert known["history_length"] == 1
    assert two.client.delete("/v1/users/leaver").json()["events"] >= 1
    for _ in range(3):
        told = two.client.post("/v1/rank", json=body("leaver", explain=True)).json()["explain"]
        assert told["history_length"] == 0
    assert told["user_state"]["found"] != "extended"


def test_a_mistake_and_a_failure_in_an_engine_are_answered_as_in_one_process(two: Live) -> None:
    wrong = two.client.post("/v1/rank", json=body("u1", candidates={"item": ["i1"], "price": ["dear"]}))
    assert wrong.status_code in (200, 422)  # what one process says of a price that is no number
    wrong = two.client.post("/v1/rank", json=body("u1", top=0))
    assert wrong.status_code == 422 and wrong.json()["error"]["problems"][0]["path"] == "$.top"


def test_an_engine_that_is_killed_costs_no_answer_and_comes_back(two: Live) -> None:
    stop, statuses = threading.Event(), list[int]()

    def ask(number: int) -> None:
        with httpx.Client(base_url=two.address, timeout=60) as client:
            while not stop.is_set():
                statuses.append(client.post("/v1/rank", json=body(f"u{number}")).status_code)

    fleet = two.fleet  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask, i) for i in range(4)]
        until(lambda: len(statuses) > 20)
        os.kill(fleet.process_ids[0], signal.SIGKILL)
        until(lambda: fleet.restarts == 1)
        assert "engine 0" in str(two.client.get("/health/ready").json()["trouble"])
        until(lambda: not two.client.get("/health/ready").json()["trouble"])
        answered = len(statuses)
        until(lambda: len(statuses) > answered + 20)
        stop.set()
        [one.result() for one in asking]
    assert set(statuses) == {200}
    assert two.metric("depthrank_engine_up", engine="0") == 1
    assert two.metric("depthrank_engine_restarts_total") == 1


def test_a_hanging_engine_is_replaced_its_requests_answered_by_another_and_with_none_left_there_is_a_503(
    two: Live,
) -> None:
    fleet = two.fleet  # type: ignore[attr-defined]
    os.kill(fleet.process_ids[1], signal.SIGSTOP)
    answers = [two.client.post("/v1/rank", json=body(f"u{i}"), timeout=60).status_code for i in range(6)]
    assert answers == [200] * 6
    until(lambda: len(fleet.trouble()) == 1)
    os.kill(fleet.process_ids[0], signal.SIGKILL)
    until(lambda: len(fleet.trouble()) == 2)
    refused = two.client.post("/v1/rank", json=body("u1"))
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
    assert two.client.get("/health/live").status_code == 200
    until(lambda: not fleet.trouble())
    assert two.client.post("/v1/rank", json=body("u1")).status_code == 200


SCRIPT = """
import sys
from depthrank.server import serve
serve(sys.argv[1], port=0, log=sys.argv[2], workers=2, on_started=lambda address: print(address, flush=True))
"""


@contextmanager
def command(world: Any, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``serve`` with two workers in a process of its own, warm."""
    shutil.copytree(world.folder / "events", folder / "events")
    arguments = [sys.executable, "-c", SCRIPT, str(world.artifact), f"lmdb:{folder / 'events'}"]
    environment = {**os.environ, "DEPTHRANK_CACHE": str(folder / "cache")}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as running:
        try:
            assert running.stdout
            address = running.stdout.readline().strip()
            until(lambda: httpx.get(f"{address}/health/ready", timeout=30).status_code == 200)
            yield running, address
        finally:
            running.kill()


def engines_of(running: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(running.pid).children() if "engine_process" in " ".join(child.cmdline())]


def test_sigterm_drains_and_ends_front_and_engines_with_zero(world: Any, tmp_path: Path) -> None:
    with command(world, tmp_path) as (running, address), ThreadPoolExecutor(4) as clients:
        engines = engines_of(running)
        assert len(engines) == 2
        sent = [clients.submit(httpx.post, f"{address}/v1/rank", json=body(f"u{i}"), timeout=60) for i in range(4)]
        os.kill(running.pid, signal.SIGTERM)
        statuses = []
        for one in sent:
            try:
                statuses.append(one.result().status_code)
            except httpx.TransportError:  # not yet accepted when the listener closed
                continue
        assert set(statuses) <= {200}
        assert running.wait(60) == 0
        assert not any(engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE for engine in engines)


@pytest.mark.parametrize("how", [True, False], ids=["told by the kernel", "by looking"])
def test_a_process_that_ends_with_its_parent_does_so_when_the_parent_is_killed(how: bool) -> None:
    """A parent that starts such a child, tells its id and is killed; the child would sleep for a minute."""
    child = (
        "import os, time; from depthrank.server.workers.parent import end_with; "
        f"end_with(os.getppid(), by_signal={how}); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        orphan = psutil.Process(int(running.stdout.readline()))
        assert orphan.is_running()
        running.kill()
        running.wait(30)
        until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, 30)

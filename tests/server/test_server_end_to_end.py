"""The server over a real engine: a small model, trained here, a real log, real sockets."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from live_server import Live, live_server
from test_server_limits import until

from depthrank.engine import Ranker
from depthrank.events import open_log
from depthrank.schema import Spec
from depthrank.training import train

NUM_ITEMS, NUM_USERS = 60, 40
START_S = 1_700_000_000


def write_dataset(folder: Path) -> Spec:
    """Users of two tastes click items of their genre, which half of the catalogue has."""
    chance = random.Random(0)
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item", "title", "genre"])
        rows.writerows([i, f"Film {i}", "war" if i % 2 else "love"] for i in range(1, NUM_ITEMS + 1))
    with (folder / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "time", "action"])
        for step in range(1_200):
            user = chance.randrange(NUM_USERS)
            item = chance.randrange(NUM_ITEMS // 2) * 2 + 1 + user % 2
            rows.writerow([user, item, START_S + step * 60, "click" if step % 3 else "like"])
    return Spec.from_plain(
        {
            "name": "two tastes",
            "dataset": {
                "items": {"path": "items.csv", "id": "item"},
                "events": {
                    "path": "events.csv",
                    "user": "user",
                    "item": "item",
                    "time": {"column": "time", "unit": "s"},
                    "action": {"column": "action"},
                    "negatives": {"per_positive": 8},
                },
            },
            "features": {
                "item_id": {"kind": "categorical", "source": "item.id"},
                "genre": {"kind": "categorical", "source": "item.genre"},
            },
            "tasks": {"click": {"action": "click"}, "like": {"action": "like"}},
            "value": {"weights": {"click": 1.0, "like": 2.0}},
            "history": {"length": 16},
            "training": {"epochs": 2, "batch_requests": 64},
        },
        folder=str(folder),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained ``artifact`` and the log ``events`` that it was trained from."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("served")
    train(write_dataset(folder), out=folder / "artifact", progress=False)
    return folder


@pytest.fixture(scope="module")
def real(folder: Path) -> Iterator[Live]:
    ranker = Ranker.load(folder / "artifact")
    try:
        with live_server(ranker) as live:
            until(lambda: live.client.get("/health/ready").status_code == 200)
            yield live
    finally:
        ranker.close()


def rank(live: Live, **fields: object) -> dict[str, Any]:
    response = live.client.post("/v1/rank", json={"user": "1", "candidates": "all", **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def order(answer: dict[str, Any]) -> list[str]:
    return [item["item"] for item in answer["items"]]


@pytest.mark.parametrize(("mode", "level"), [("full", 1), ("router", 0)])
def test_a_model_ranks_the_whole_catalogue_at_each_depth(real: Live, mode: str, level: int) -> None:
    answer = rank(real, mode=mode, top=1_000)
    assert sorted(order(answer), key=int) == [str(i) for i in range(1, NUM_ITEMS + 1)]
    assert {item["level"] for item in answer["items"]} == {level}
    assert answer["items"][0]["scores"].keys() == {"click", "like"}
    assert answer["degraded"] == {"is": False, "reasons": []}


def test_an_event_is_readable_at_once_and_moves_the_next_ranking(real: Live) -> None:
    before = rank(real, user="mover", mode="full", top=NUM_ITEMS)
    event = {"user": "mover", "item": order(before)[-1], "action": "like", "event_id": "moved"}
    assert real.client.post("/v1/events", json=event).json()["appended"] == 1
    shown = real.client.get("/v1/users/mover/history?actions=click,like").json()["events"]
    assert [(e["item"], e["action"]) for e in shown] == [(event["item"], "like")]
    after = rank(real, user="mover", mode="full", top=NUM_ITEMS)
    assert [i["value"] for i in after["items"]] != [i["value"] for i in before["items"]]
    again = real.client.post("/v1/events", json=event)
    assert again.status_code == 200 and again.json()["duplicates"] == 1


def test_served_impressions_reach_the_log_under_the_request_id(real: Live) -> None:
    answer = rank(real, user="watched", top=3)
    events = real.ranker.log

    def impressions() -> list[tuple[str, int]]:
        found = []
        for batch in events.scan(actions=["impression"]):
            assert batch.request_id is not None and batch.position is not None
            rows = zip(batch.item, batch.position.tolist(), batch.request_id, strict=True)
            found += [(item, place) for item, place, request in rows if request == answer["request_id"]]
        return found

    until(lambda: len(impressions()) == 3)
    assert impressions() == [(item, place) for place, item in enumerate(order(answer))]


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_unknown_users_and_any_number_of_unknown_candidates_are_ranked(real: Live, count: int) -> None:
    answer = rank(real, user="x" * 1_000_000, candidates=[f"new {i}" for i in range(count)], top=5)
    assert len(answer["items"]) == min(count, 5)


def test_duplicates_nulls_and_huge_numbers_are_no_failure(real: Live) -> None:
    columns = {"item": ["1", "1", 1, "2"], "bid": [1e308, None, -1e308, 2**62], "unheard_of": [None, "x", 1, [1]]}
    answer = rank(real, candidates=columns, context={"device": None, "odd": [1, "x"]})
    assert order(answer).count("1") == 3


def test_an_upserted_item_is_ranked_and_shown(real: Live) -> None:
    assert real.client.post("/v1/items", json={"item": ["fresh"], "genre": ["war"]}).json()["inserted"] == 1
    assert "fresh" in order(rank(real, top=1_000))
    (view,) = real.client.get("/v1/items?ids=fresh").json()["items"]
    assert view == {"item": "fresh", "known": True, "columns": {"title": None, "genre": "war"}}


def test_an_erased_user_has_no_history(real: Live) -> None:
    real.client.post("/v1/events", json={"user": "leaver", "item": ["1", "2"], "action": "click"})
    erased = real.client.delete("/v1/users/leaver").json()
    assert (erased["user"], erased["events"], erased["pending"]) == ("leaver", 2, [])
    assert real.client.get("/v1/users/leaver/history").json()["events"] == []


def test_wrong_fields_found_by_edge_and_engine_are_told_with_their_paths(real: Live) -> None:
    for body in (
        {"candidates": "all"},
        {"user": "u", "candidates": ["a", 1.5]},
        {"user": "u", "candidates": [], "top": -1},
    ):
        response = real.client.post("/v1/rank", json=body)
        assert response.status_code == 422
        assert response.json()["error"]["problems"][0]["path"].startswith("$.")


def test_the_command_serves_until_sigterm_and_exits_with_zero(folder: Path) -> None:
    script = (
        "import sys; from depthrank.server import serve\n"
        "serve(sys.argv[1], port=0, log=sys.argv[2], on_started=lambda address: print(address, flush=True))"
    )
    events = f"lmdb:{folder / 'own events'}"
    command = [sys.executable, "-c", script, str(folder / "artifact"), events]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout
            address = running.stdout.readline().strip()
            until(lambda: httpx.get(f"{address}/health/ready", timeout=30).status_code == 200)
            event = {"user": "u", "item": "1", "action": "click"}
            assert httpx.post(f"{address}/v1/events", json=event, timeout=30).json()["appended"] == 1
            assert (
                httpx.post(f"{address}/v1/rank", json={"user": "u", "candidates": "all", "top": 4}).status_code == 200
            )
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait(30) == 0
        finally:
            running.kill()
    with open_log(events, read_only=True) as log:
        actions = [action for batch in log.scan() for action in batch.action]
    assert actions == ["click", *["impression"] * 4]

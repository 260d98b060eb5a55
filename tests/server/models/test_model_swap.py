"""Real versions over real sockets: switches under traffic, events that all versions see, records that replay, erasure
from everything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live_server import Live, live_server
from test_server_limits import until
from world_versions import model_folder, models_of

from depthrank.cli.models import ModelsError, models
from depthrank.cli.replay import ReplayError, replay
from depthrank.engine import Ranker
from depthrank.events import open_log
from depthrank.server import ServerSettings
from depthrank.server.decisions import DecisionSettings
from depthrank.server.decisions.decision_files import read_records
from depthrank.server.models import ModelSettings


@pytest.fixture(scope="module")
def folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(world, tmp_path_factory.mktemp("models"))


@pytest.fixture
def real(folder: Path) -> Iterator[Live]:
    torch.set_num_threads(1)
    loaded, log = models_of(folder)
    settings = ServerSettings(models=ModelSettings(manage=True), decisions=DecisionSettings(share=1.0))
    with log:
        try:
            with live_server(loaded, settings) as live:
                until(lambda: live.client.get("/health/ready").status_code == 200)
                yield live
        finally:
            loaded.close()


def ids(live: Live) -> list[str]:
    return [view["model"] for view in live.client.get("/v1/models").json()["models"]]


def test_switches_of_real_models_under_traffic_fail_nothing_and_mix_no_versions(real: Live, folder: Path) -> None:
    """Every answer equals, value for value, what the version it names gives alone."""
    body = {"candidates": "all", "top": 5, "mode": "full", "time_ms": 1_800_000_000_000}
    alone: dict[str, dict[str, Any]] = {}
    with open_log(f"lmdb:{folder / 'events'}", read_only=True) as log:
        for name in ("v1", "v2"):
            ranker = Ranker.load(folder / name, log=log)
            from depthrank.schema import Request

            alone[ranker.model_id] = {
                user: [(i.item, i.value) for i in ranker.rank(Request(user=user, **body)).items]
                for user in ("u1", "u2", "u3")
            }
    assert len(alone) == 2
    stop, wrong, seen = threading.Event(), list[Any](), set[str]()

    def ask(user: str) -> None:
        while not stop.is_set():
            answer = real.client.post("/v1/rank", json={"user": user, **body})
            told = answer.json()
            if answer.status_code != 200:
                wrong.append(told)
                return
            seen.add(told["model"])
            expected = alone[told["model"]][user]
            got = [(i["item"], i["value"]) for i in told["items"]]
            if [i for i, _ in got] != [i for i, _ in expected] or any(
                abs(a - b) > 1e-5 * abs(b) for (_, a), (_, b) in zip(got, expected, strict=True)
            ):
                wrong.append((told["model"], got, expected))

    clients = [threading.Thread(target=ask, args=(user,)) for user in ("u1", "u2", "u3")]
    for client in clients:
        client.start()
    for name in ("v2", "v1", "v2"):
        loaded = real.client.post("/v1/models", json={"action": "load", "path": name, "label": "stable"}, timeout=120)
        if loaded.status_code == 409:  # the predecessor is still there: a rollback returns to it
            loaded = real.client.post("/v1/models", json={"action": "rollback"})
        assert loaded.status_code == 200, loaded.text
    stop.set()
    for client in clients:
        client.join(60)
    assert wrong == [] and seen == set(alone)


def test_an_event_is_seen_by_every_version_and_an_erasure_forgotten_by_all(real: Live) -> None:
    loaded = real.client.post("/v1/models", json={"action": "load", "path": "v2"}, timeout=120)
    assert loaded.status_code == 200
    real.client.post("/v1/events", json={"user": "both", "item": ["i1", "i2"], "action": "click"})
    body = {"user": "both", "candidates": "all", "top": 3, "explain": True}
    lengths = []
    for _ in range(2):
        answer = real.client.post("/v1/rank", json=body).json()
        lengths.append((answer["model"], answer["explain"]["history_length"]))
        real.client.post("/v1/models", json={"action": "label", "model": ids(real)[1], "label": "stable"})
    assert lengths[0][0] != lengths[1][0] and [n for _, n in lengths] == [2, 2]
    assert real.client.delete("/v1/users/both").json()["events"] >= 2
    assert real.client.post("/v1/rank", json=body).json()["explain"]["history_length"] == 0


def test_a_logged_decision_of_the_server_replays_by_the_command(
    real: Live, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = real.client.post(
        "/v1/rank", json={"user": "u5", "candidates": "all", "top": 4, "deadline_ms": 5_000}
    ).json()
    decisions = folder / "decisions"
    found: list[Any] = []
    until(
        lambda: bool(
            found.extend(r for r in read_records(decisions) if r["request_id"] == answer["request_id"]) or found
        )
    )
    assert [row[0] for row in found[0]["order"]] == [item["item"] for item in answer["items"]]
    url = f"lmdb:{folder / 'events'}"
    replay(str(decisions), request_id=answer["request_id"], log=url)
    said = capsys.readouterr().out
    assert "the same decision" in said and "the same ranking, bit for bit" in said
    altered = folder / "altered.jsonl"
    altered.write_text(json.dumps({**found[0], "order": [["i0", 1.0, 0]]}) + "\n")
    with pytest.raises(ReplayError, match="comes out otherwise"):
        replay(str(altered), artifact=folder / "v1", log=url)
    with pytest.raises(ReplayError, match="no record of request nobody"):
        replay(str(decisions), request_id="nobody", log=url)


def test_an_erased_user_is_gone_from_log_records_backups_and_leaves_an_audit_line(real: Live, folder: Path) -> None:
    real.client.post("/v1/events", json={"user": "private-person", "item": "i1", "action": "click"})
    for _ in range(3):
        real.client.post("/v1/rank", json={"user": "private-person", "candidates": "all", "top": 2})
    outcomes = real.service.outcomes
    until(lambda: outcomes.served.waiting == 0 and len(records_of(folder, "private-person")) == 3)
    with open_log(f"lmdb:{folder / 'events'}", read_only=True) as log:
        log.backup(folder / "backup")
    erased = real.client.delete("/v1/users/private-person").json()
    assert erased["events"] == 7 and erased["decisions"] == 3 and erased["backups"] == 1 and erased["pending"] == []
    held = [p for p in folder.rglob("*") if p.is_file() and b"private-person" in p.read_bytes()]
    assert held == []
    (line,) = (folder / "decisions" / "audit.jsonl").read_text().splitlines()[-1:]
    assert json.loads(line)["decisions"] == 3 and "private" not in line


def records_of(folder: Path, user: str) -> list[dict[str, Any]]:
    return [r for r in read_records(folder / "decisions") if r["user"] == user]


def test_the_command_lists_loads_and_rolls_back(real: Live, capsys: pytest.CaptureFixture[str]) -> None:
    models(real.address)
    assert "stable" in capsys.readouterr().out
    models(real.address, "load", "v2", label="canary", share=0.5)
    assert "canary" in capsys.readouterr().out
    models(real.address, "rollback")
    assert "rolled back: asked" in " ".join(capsys.readouterr().out.split())
    models(real.address, "unload", ids(real)[1])
    for action, what, words in (
        ("unload", ids(real)[0], "is stable"),
        ("load", "no such", r"\$\.path"),
        ("promote", None, "no canary"),
    ):
        with pytest.raises(ModelsError, match=words):
            models(real.address, action, what)
    with pytest.raises(ModelsError, match="cannot be reached"):
        models("http://127.0.0.1:9")

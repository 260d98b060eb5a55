"""POST and GET /v1/models over real sockets: who may, what may be loaded, and what traffic sees of a switch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_server import Live, live_server
from test_server_limits import until
from version_double import Loader, VersionDouble, artifact_folders

from depthrank.server import ServerSettings
from depthrank.server.models import Models, ModelSettings

GOOD = {"user": "u", "candidates": ["1", "2"]}


@contextmanager
def served(tmp_path: Path, **settings: Any) -> Iterator[Live]:
    """A server of ``one`` whose folder holds ``two``, ``three`` and ``broken`` too."""
    folder = artifact_folders(tmp_path / "models", "one", "two", "three", "broken")
    artifact_folders(tmp_path / "elsewhere", "secret")
    first = VersionDouble("one")
    own = ModelSettings(**{"manage": True, **settings})
    models = Models(first, Loader(first), own, path=folder / "one", owns_first=True)
    with live_server(models, ServerSettings(models=own)) as live:
        until(lambda: live.client.get("/health/ready").status_code == 200)
        yield live


def act(live: Live, action: str, **fields: Any) -> Any:
    return live.client.post("/v1/models", json={"action": action, **fields})


def labels(live: Live) -> dict[str, list[str]]:
    return {view["model"]: view["labels"] for view in live.client.get("/v1/models").json()["models"]}


def test_load_label_promote_and_roll_back_by_one_call_each(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert labels(live) == {"one": ["stable"]}
        assert act(live, "load", path="two", label="canary", share=1.0).status_code == 200
        assert labels(live) == {"one": ["stable"], "two": ["canary"]}
        assert live.client.post("/v1/rank", json=GOOD).json()["model"] == "two"
        view = next(v for v in live.client.get("/v1/models").json()["models"] if v["model"] == "two")
        assert (
            view["share"] == 1.0
            and view["counts"]["answers"] == 1
            and view["tasks"] == {"click": "click", "like": "like"}
        )
        assert act(live, "promote").json()["models"][0]["labels"] == ["stable"]
        assert labels(live) == {"two": ["stable"], "one": ["previous"]}
        assert act(live, "rollback").status_code == 200
        assert live.client.post("/v1/rank", json=GOOD).json()["model"] == "one"
        assert act(live, "unload", model="two").status_code == 200 and labels(live) == {"one": ["stable"]}
        assert live.metric("depthrank_model_switches_total") == 2
        assert live.metric("depthrank_model_label", model="one", label="stable") == 1


def test_management_is_off_unless_it_was_turned_on(tmp_path: Path) -> None:
    with served(tmp_path, manage=False) as live:
        answer = act(live, "load", path="two")
        assert answer.status_code == 403 and "models.manage" in answer.json()["error"]["message"]
        assert live.client.get("/v1/models").status_code == 200 and labels(live) == {"one": ["stable"]}


@pytest.mark.parametrize(
    "path",
    ["../elsewhere/secret", "two/../../elsewhere/secret", "", ".", "no such", "x\0y", "link", "two/manifest.json"],
)
def test_only_artifacts_inside_a_model_folder_can_be_named(tmp_path: Path, path: str) -> None:
    with served(tmp_path) as live:
        (tmp_path / "models" / "link").symlink_to(tmp_path / "elsewhere" / "secret")
        for given in (path, str(tmp_path / "elsewhere" / "secret")):
            answer = act(live, "load", path=given)
            assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["path"] == "$.path"
            assert "elsewhere" not in answer.json()["error"]["message"]
        assert labels(live) == {"one": ["stable"]}


def test_a_configured_folder_is_allowed_too(tmp_path: Path) -> None:
    with served(tmp_path, folders=(str(tmp_path / "elsewhere"),)) as live:
        assert act(live, "load", path="secret").status_code == 200
        assert act(live, "load", path=str(tmp_path / "models" / "two")).status_code == 200


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"action": "explode"}, "$.action"),
        ({"action": "load"}, "$.path"),
        ({"action": "label", "model": "one"}, "$.label"),
        ({"action": "label", "model": "one", "label": "best"}, "$.label"),
        ({"action": "load", "path": "two", "share": 2}, "$.share"),
        ({"action": "load", "path": 7}, "$.path"),
        ({"action": "rollback", "force": True}, "$"),
    ],
)
def test_a_wrong_field_is_told_with_its_path(tmp_path: Path, body: dict[str, Any], path: str) -> None:
    with served(tmp_path) as live:
        answer = live.client.post("/v1/models", json=body)
        assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["path"] == path


def test_what_does_not_fit_is_a_409_and_a_damaged_artifact_a_422(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert act(live, "unload", model="one").status_code == 409
        assert act(live, "rollback").json()["error"]["type"] == "model_conflict"
        answer = act(live, "load", path="broken")
        assert answer.status_code == 422 and "broken is damaged" in answer.json()["error"]["problems"][0]["hint"]


def test_switches_under_traffic_give_no_error_and_one_version_an_answer(tmp_path: Path) -> None:
    """Four clients; ten switches. Counts add up: nothing was lost, nothing failed."""
    with served(tmp_path, keep_previous=False) as live:
        stop, seen, wrong = threading.Event(), Counter[str](), list[Any]()

        def ask(number: int) -> None:
            while not stop.is_set():
                answer = live.client.post("/v1/rank", json=GOOD | {"user": f"u{number}"})
                if answer.status_code != 200:
                    wrong.append(answer.text)
                    return
                seen[answer.json()["model"]] += 1

        clients = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for client in clients:
            client.start()
        names = ["two", "one"] * 5
        for name in names:
            assert act(live, "load", path=name, label="stable").status_code == 200
        stop.set()
        for client in clients:
            client.join(30)
        assert wrong == [] and set(seen) == {"one", "two"}
        assert live.metric("depthrank_requests_total", endpoint="/v1/rank", method="POST", status="200") == seen.total()


def test_a_shadow_answers_nobody_and_is_compared(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert act(live, "load", path="two", label="shadow", share=1.0).status_code == 200
        for number in range(8):
            answer = live.client.post("/v1/rank", json=GOOD | {"user": f"u{number}"}).json()
            assert answer["model"] == "one"
            until(lambda n=number: live.metric("depthrank_shadow_answers_total", model="two") == n + 1)
        view = next(v for v in live.client.get("/v1/models").json()["models"] if v["model"] == "two")
        assert view["shadowed"]["overlap@10"] == 1.0 and view["shadowed"]["value_difference"] == 0.0
        assert view["counts"]["answers"] == 0


def test_a_shadow_is_dropped_under_load_and_a_failing_one_hurts_nobody(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        act(live, "load", path="two", label="shadow", share=1.0)
        models = live.service.models
        version = next(v for v in models.versions if v.model == "two")
        version.ranker.rank_fault = lambda: (_ for _ in ()).throw(RuntimeError("x"))  # type: ignore[attr-defined]
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200
        until(lambda: live.metric("depthrank_shadow_errors_total", model="two") == 1)
        live.service.outcomes.shadow._busy = lambda: True
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200
        until(lambda: live.metric("depthrank_shadow_dropped_total", model="two", reason="load") == 1)

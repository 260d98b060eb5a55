"""A delta over HTTP: one call while requests run, for one process and for engine processes, refused with what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_server import Live, live_server
from test_server_limits import until
from version_double import VersionDouble
from world_versions import model_folder, models_of

from depthrank.artifact import make_delta
from depthrank.events import open_log
from depthrank.schema import Limits
from depthrank.server import ServerSettings
from depthrank.server.models import Models, ModelSettings
from depthrank.server.models.versions import ModelConflictError
from depthrank.server.workers.fleet import Fleet
from depthrank.server.workers.settings import WorkerSettings

MANAGED = ModelSettings(manage=True)
NOW_MS = 1_800_000_000_000
ASKED = {
    "user": "u1",
    "candidates": [f"i{k}" for k in range(20)],
    "top": 20,
    "mode": "full",
    "context": {"device": "ios"},
}


@pytest.fixture(scope="module")
def folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions, and the deltas from the first to the others."""
    folder = model_folder(world, tmp_path_factory.mktemp("models"), versions=3)
    for version in ("v2", "v3"):
        make_delta(folder / "v1", folder / version, folder / "deltas")
    return folder


@contextmanager
def in_process(folder: Path) -> Iterator[Live]:
    models, log = models_of(folder)
    with log, live_server(models, ServerSettings(models=MANAGED, log_served=False), lambda: NOW_MS) as live:
        until(lambda: live.client.get("/health/ready").status_code == 200)
        yield live


@contextmanager
def by_engines(folder: Path) -> Iterator[Live]:
    settings = ServerSettings(models=MANAGED, log_served=False, workers=WorkerSettings(restart_first_s=0.05))
    with pytest.MonkeyPatch.context() as patch, open_log(f"lmdb:{folder / 'events'}") as log:
        patch.setenv("DEPTHRANK_CACHE", str(folder / "cache"))
        fleet = Fleet(2, log, Limits(), settings.workers)
        try:
            models = Models(fleet.load(folder / "v1"), fleet.load, MANAGED, path=folder / "v1", owns_first=True)
            with live_server(models, settings, lambda: NOW_MS, engines=fleet) as live:
                until(lambda: live.client.get("/health/ready").status_code == 200)
                yield live
        finally:
            fleet.close()


def give(live: Live, number: int, **fields: Any) -> Any:
    return live.client.post("/v1/models", json={"action": "delta", "path": f"deltas/delta-{number:06d}", **fields})


@pytest.mark.parametrize("serving", [in_process, by_engines])
def test_deltas_arrive_while_requests_run_and_the_next_request_sees_them(
    folder: Path, serving: Callable[..., Any]
) -> None:
    with serving(folder) as live:
        done, answers = threading.Event(), list[tuple[int, str]]()

        def ask() -> None:
            while not done.is_set():
                response = live.client.post("/v1/rank", json=ASKED)
                answers.append((response.status_code, response.json().get("model", "")))

        asking = threading.Thread(target=ask)
        asking.start()
        refused = give(live, 2)
        assert refused.status_code == 422 and "apply number 1 first" in refused.text
        for number in (1, 2):
            response = give(live, number)
            assert response.status_code == 200, response.text
            assert live.client.post("/v1/rank", json=ASKED).json()["model"].endswith(f"+{number}")
        done.set()
        asking.join()
        assert {status for status, _ in answers} == {200}
        seen = [model.partition("+")[2] for _, model in answers]
        assert seen == sorted(seen) and seen[0] == "", "from one state to the next, and never back"
        assert give(live, 1).status_code == 422
        outside = live.client.post("/v1/models", json={"action": "delta", "path": "../../etc"})
        assert outside.status_code == 422 and "$.path" in outside.text


def test_who_takes_no_deltas_says_so() -> None:
    models = Models(VersionDouble("one"), lambda path: VersionDouble(str(path)), MANAGED)
    with pytest.raises(ModelConflictError, match="which takes no deltas"):
        models.apply_delta(Path("x"))
    with pytest.raises(ModelConflictError, match="nobody is not loaded"):
        models.apply_delta(Path("x"), "nobody")

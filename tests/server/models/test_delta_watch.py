"""A watched folder of deltas: in order, refused with what to do, and where it was after a restart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_server import live_server
from test_deltas_http import ASKED, NOW_MS
from test_server_limits import until
from world_versions import model_folder, models_of

from depthrank.artifact import make_delta
from depthrank.errors import ArtifactError
from depthrank.server import ServerSettings
from depthrank.server.models import ModelSettings
from depthrank.server.models.delta_watch import DeltaWatch
from depthrank.server.serve import ServerError, serve


@pytest.fixture(scope="module")
def made(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions, and ``all`` the deltas from the first to the others."""
    folder = model_folder(world, tmp_path_factory.mktemp("models"), versions=4)
    for version in ("v2", "v3", "v4"):
        make_delta(folder / "v1", folder / version, folder / "all")
    return folder


class Applied:
    """Models that check what a delta folder says of itself, without any weights."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.before: Callable[[], object] = lambda: None

    def info(self) -> dict[str, Any]:
        return {"model": f"shop@1+{len(self.paths)}", "deltas": len(self.paths)}

    def apply_delta(self, path: Path) -> None:
        self.before()
        number = int(path.name.removeprefix("delta-"))
        if number != len(self.paths) + 1:
            raise ArtifactError(f"{path} is number {number}, and {len(self.paths)} are applied")
        self.paths.append(path)


def bring(made: Path, folder: Path, number: int, to: int | None = None) -> Path:
    target = folder / f"delta-{to or number:06d}"
    shutil.copytree(made / "all" / f"delta-{number:06d}", target)
    return target


def test_deltas_are_taken_in_their_order_as_they_come_and_a_gap_waits(made: Path, tmp_path: Path) -> None:
    models = Applied()
    watch = DeltaWatch(models, tmp_path)
    assert watch.look().applied == 0 and watch.trouble == []
    bring(made, tmp_path, 1)
    bring(made, tmp_path, 3)
    status = watch.look()
    assert (status.applied, status.newest) == (1, 3) and "delta-000002 is missing" in (status.why or "")
    assert watch.trouble == [f"deltas: {status.why}"]
    bring(made, tmp_path, 2)
    assert watch.look().applied == 3 and watch.trouble == []
    assert [path.name[-1] for path in models.paths] == ["1", "2", "3"]


def test_an_applied_delta_that_is_replaced_is_told_and_one_copied_again_is_not(made: Path, tmp_path: Path) -> None:
    watch = DeltaWatch(Applied(), tmp_path)
    first = bring(made, tmp_path, 1)
    assert watch.look().applied == 1
    shutil.rmtree(first)
    bring(made, tmp_path, 1)
    assert watch.look().why is None
    shutil.rmtree(first)
    bring(made, tmp_path, 2, to=1)
    status = watch.look()
    assert status.refused == str(first) and "another one than was applied" in (status.why or "")
    bring(made, tmp_path, 2)
    assert watch.look().applied == 1, "what comes after it waits"


def test_a_refused_delta_is_tried_again_when_its_files_change(made: Path, tmp_path: Path) -> None:
    models, tried = Applied(), list[int]()
    models.before = lambda: tried.append(1)
    watch = DeltaWatch(models, tmp_path)
    path = bring(made, tmp_path, 1)
    content = (path / "delta.json").read_bytes()
    (path / "delta.json").write_bytes(content[:50])
    assert "damaged" in (watch.look().why or "") and watch.look().applied == 0 and not tried
    (path / "delta.json").write_bytes(content)
    assert watch.look().applied == 1 and len(tried) == 1


def test_what_somebody_else_applied_meanwhile_is_no_refusal(made: Path, tmp_path: Path) -> None:
    models = Applied()

    def other() -> None:
        models.before = lambda: None
        models.paths.append(Path("by http"))

    models.before = other
    bring(made, tmp_path, 1)
    watch = DeltaWatch(models, tmp_path)
    assert watch.look().applied == 1 and watch.trouble == []


def test_a_server_serves_the_folder_before_it_is_ready_and_says_what_it_refuses(made: Path, tmp_path: Path) -> None:
    watched = tmp_path / "deltas"
    watched.mkdir()
    bring(made, watched, 1)
    own = ModelSettings(deltas=str(watched), deltas_every_s=0.01)
    for number in (2, 3):  # the second round is a restart
        models, log = models_of(made)
        settings = ServerSettings(models=own, log_served=False)
        with log, live_server(models, settings, lambda: NOW_MS) as live:
            until(lambda: live.client.get("/health/ready").status_code == 200)
            assert live.client.post("/v1/rank", json=ASKED).json()["model"].endswith(f"+{number - 1}")
            bring(made, watched, number)
            until(lambda: live.client.post("/v1/rank", json=ASKED).json()["model"].endswith(f"+{number}"))  # noqa: B023 - called within the round
            told = live.client.get("/v1/status").json()["deltas"]
            assert (told["applied"], told["newest"], told["why"]) == (number, number, None)
            assert live.metric("depthrank_deltas_applied") == number
            if number == 3:
                bring(made, watched, 1, to=4)
                until(lambda: live.metric("depthrank_deltas_refused") == 1)
                assert "is number 1, and 3 are applied already" in live.client.get("/v1/status").json()["deltas"]["why"]
                assert "delta-000004" in live.client.get("/health/ready").text
                assert live.client.post("/v1/rank", json=ASKED).json()["model"].endswith("+3")


def test_a_folder_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no folder .* to watch for deltas"):
        serve("nothing", port=0, settings=ServerSettings(models=ModelSettings(deltas=str(tmp_path / "no"))))

"""Whatever a client sends that looks like a path, nothing is opened by it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from live_server import live_server

from depthrank.server import ServerSettings
from depthrank.server.models.settings import ModelSettings


class Opened:
    """Paths that this process opens or lists while ``watching``; an audit hook cannot be taken away again."""

    def __init__(self) -> None:
        self.watching = False
        self.paths: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event in ("open", "os.listdir", "os.scandir", "os.stat", "import"):
            self.paths.extend(str(argument) for argument in arguments[:1])


def test_no_path_of_a_client_is_opened(tmp_path: Path) -> None:
    marker = tmp_path / "a-secret-place"
    (marker / "artifact").mkdir(parents=True)
    opened = Opened()
    with live_server(settings=ServerSettings(models=ModelSettings(manage=True))) as live:
        opened.watching = True
        for path in (
            f"{marker}/artifact",
            f"../../../..{marker}/artifact",
            f"file://{marker}/artifact",
            f"lmdb:{marker}",
        ):
            encoded = quote(path, safe="")
            for method, url, body in (
                ("POST", "/v1/rank", {"user": path, "candidates": [path], "context": {path: path}}),
                ("POST", "/v1/rerank", {"query": path, "documents": [path], "model": path}),
                ("POST", "/v1/events", {"user": path, "item": path, "action": path, "event_id": path, "x": path}),
                ("POST", "/v1/items", {"item": path, "title": path}),
                ("POST", "/v1/models", {"action": "load", "path": path}),
                ("GET", f"/v1/items?id={encoded}", None),
                ("GET", f"/v1/users/{encoded}/history", None),
                ("DELETE", f"/v1/users/{encoded}", None),
                ("GET", f"/page/{encoded}", None),
                ("GET", f"/v2/models/{encoded}", None),
                ("GET", f"/{encoded}", None),
            ):
                assert live.client.request(method, url, json=body).status_code < 500, (method, url)
        opened.watching = False
    assert not [p for p in opened.paths if "a-secret-place" in p]


def test_the_watch_sees_an_opened_file(tmp_path: Path) -> None:
    opened = Opened()
    opened.watching = True
    (tmp_path / "a-secret-place").write_text("x")
    opened.watching = False
    assert [p for p in opened.paths if "a-secret-place" in p]

"""Rankers of several versions over one shared log of events, for tests of the registry."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ranker_double import RankerDouble

from depthrank.errors import ArtifactError
from depthrank.events import EventBatch
from depthrank.schema import Answer, Request


class VersionDouble(RankerDouble):
    """Answers under its own model id; ``told`` is what it heard of the log from others."""

    def __init__(self, model: str, shared: RankerDouble | None = None) -> None:
        super().__init__()
        self.model = model
        self.told: list[Any] = []
        if shared is not None:
            self.events, self.event_ids, self.lock = shared.events, shared.event_ids, shared.lock

    def rank(self, request: Request, **options: Any) -> Answer:
        assert not self.closed, "nobody ranks by a version that was closed"
        answer = super().rank(request, **{k: v for k, v in options.items() if k != "record"})
        assert not self.closed, "a version is not closed while it ranks"
        answer.model = self.model
        if options.get("record"):
            answer.record = {"user": str(request.user), "request_id": answer.request_id}
        return answer

    def info(self) -> dict[str, Any]:
        return super().info() | {"model": self.model}

    def observe(self, events: EventBatch) -> None:
        self.told.append(("observe", list(events.item)))

    def apply_upserts(self) -> None:
        self.told.append("upserts")

    def forget(self, user: str) -> None:
        self.told.append(("forget", user))

    def log_position(self) -> int:
        return len(self.events) - 1


class Loader:
    """Makes a version of a folder: its model id is the folder's name. ``gate`` holds loads back."""

    def __init__(self, shared: RankerDouble) -> None:
        self.shared = shared
        self.made: list[VersionDouble] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, path: str | Path) -> VersionDouble:
        self.entered.set()
        assert self.gate.wait(30)
        if "broken" in str(path):
            raise ArtifactError(f"{Path(path).name} is damaged")
        made = VersionDouble(Path(path).name, self.shared)
        self.made.append(made)
        return made


def artifact_folders(folder: Path, *names: str) -> Path:
    """Folders that look like artifacts from outside."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
    return folder

"""Versions of the planted world's model: the same artifact with other weights, and so with another id."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from depthrank.artifact import load_artifact
from depthrank.artifact.store import Contents, save_artifact
from depthrank.engine import Ranker
from depthrank.events import EventLog, open_log
from depthrank.server.models import Models, ModelSettings


def model_folder(world: Any, folder: Path, versions: int = 2) -> Path:
    """``v1``, ``v2``, ... beside a private copy of the world's log ``events``."""
    shutil.copytree(world.artifact, folder / "v1")
    shutil.copytree(world.folder / "events", folder / "events")
    for number in range(2, versions + 1):
        save_version(world.artifact, folder / f"v{number}", scale=1.0 + number / 100)
    return folder


def save_version(source: Path, target: Path, scale: float) -> None:
    """The artifact with its norms scaled; without its adaptive policy, which was made for other weights."""
    loaded = load_artifact(source)
    model = loaded.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(scale)
    contents = Contents(loaded.spec, model, loaded.encoder, loaded.items, loaded.users, loaded.manifest.log_position)
    save_artifact(target, contents)


def models_of(folder: Path, **settings: Any) -> tuple[Models, EventLog]:
    """``v1`` served, others loadable; the log is the caller's to close."""
    log = open_log(f"lmdb:{folder / 'events'}")

    def load(path: str | Path) -> Ranker:
        return Ranker.load(path, log=log)

    own = ModelSettings(**{"manage": True, **settings})
    return Models(load(folder / "v1"), load, own, path=folder / "v1", owns_first=True), log

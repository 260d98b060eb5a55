"""Save and load an artifact folder: written beside, made durable, then published by one rename of the manifest."""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from depthrank.artifact.manifest import (
    FORMAT,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    hash_file,
    read_manifest,
    verify_files,
)
from depthrank.artifact.weights import load_weights, save_weights
from depthrank.catalogue import Catalogue
from depthrank.errors import ArtifactError, SpecError, StorageFullError
from depthrank.features import FeatureEncoder
from depthrank.model import ElasticRanker, ModelConfig
from depthrank.schema import Spec

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Contents:
    """What goes into an artifact."""

    spec: Spec
    model: ElasticRanker
    encoder: FeatureEncoder
    items: Catalogue
    users: Catalogue | None
    log_position: int
    log_url: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    report_html: str | None = None


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact: ready to serve."""

    path: Path
    manifest: Manifest
    spec: Spec
    model: ElasticRanker
    encoder: FeatureEncoder
    items: Catalogue
    users: Catalogue | None


def save_artifact(out: str | Path, contents: Contents) -> Manifest:
    """Write ``contents`` as the artifact ``out``; an artifact that was there is replaced at once or not at all.

    Raises StorageFullError when the disk is full; what was there before stays whole.
    """
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    working = root / f".writing-{os.getpid()}-{time.time_ns()}"
    try:
        _write_files(working, contents)
        manifest = _manifest_of(working, contents)
        _publish(root, working, manifest)
    except OSError as error:
        shutil.rmtree(working, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFullError(f"the disk is full while saving {root}: nothing was replaced; free space") from None
        raise ArtifactError(f"cannot save {root}: {error}") from error
    _remove_others(root, manifest.folder)
    return manifest


def load_artifact(path: str | Path, *, verify: bool = True) -> Artifact:
    """Load an artifact; raises ArtifactError with one clear reason where it is missing, damaged or newer."""
    root = Path(path)
    manifest = read_manifest(root)
    verify_files(root, manifest, content=verify)
    folder = root / manifest.folder
    try:
        spec = Spec.from_plain({k: v for k, v in manifest.spec.items() if k != "folder"}, folder=str(root))
        config = ModelConfig.from_plain(manifest.model)
    except (SpecError, TypeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{root}: the manifest does not describe a model of this version: {error}") from None
    users = Catalogue.load(folder / "users") if (folder / "users").is_dir() else None
    return Artifact(
        path=root,
        manifest=manifest,
        spec=spec,
        model=load_weights(config, folder),
        encoder=FeatureEncoder.load(folder / "features"),
        items=Catalogue.load(folder / "items"),
        users=users,
    )


def verify_artifact(path: str | Path) -> Manifest:
    """Check every byte of an artifact against its manifest; raises ArtifactError at the first difference."""
    manifest = read_manifest(Path(path))
    verify_files(Path(path), manifest)
    return manifest


def _write_files(folder: Path, contents: Contents) -> None:
    folder.mkdir()
    save_weights(contents.model, folder)
    contents.encoder.save(folder / "features")
    contents.items.save(folder / "items")
    if contents.users is not None:
        contents.users.save(folder / "users")
    if contents.report_html is not None:
        (folder / REPORT_NAME).write_text(contents.report_html, encoding="utf-8")


def _manifest_of(folder: Path, contents: Contents) -> Manifest:
    files: dict[str, FileEntry] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[path.relative_to(folder).as_posix()] = hash_file(path)
    identity = blake3(msgspec.json.encode(files, order="deterministic")).hexdigest()[:12]
    created_ms = time.time_ns() // 1_000_000
    return Manifest(
        format=FORMAT,
        depthrank=version("depthrank"),
        name=contents.spec.name,
        model_id=f"{contents.spec.name}-{identity}",
        created_ms=created_ms,
        folder=f"files-{identity}-{created_ms}",
        spec={k: v for k, v in contents.spec.to_plain().items() if k != "folder"},
        model=contents.model.config.to_plain(),
        log_position=contents.log_position,
        log_url=contents.log_url,
        training=contents.training,
        files=files,
    ).sealed()


def _publish(root: Path, working: Path, manifest: Manifest) -> None:
    """fsync everything, move the folder to its name, then replace the manifest: the one commit point."""
    for path in working.rglob("*"):
        _sync(path)
    _sync(working)
    working.rename(root / manifest.folder)
    fresh = root / f".{MANIFEST_NAME}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    _sync(fresh)
    fresh.rename(root / MANIFEST_NAME)
    _sync(root)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_others(root: Path, keep: str) -> None:
    """Drop earlier generations and unfinished ones; a server that has them mapped keeps its pages until it exits."""
    for path in root.iterdir():
        if path.is_dir() and path.name != keep and path.name.startswith(("files-", ".writing-")):
            shutil.rmtree(path, ignore_errors=True)

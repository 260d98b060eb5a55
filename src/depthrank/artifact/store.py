"""Save and load an artifact folder: written beside, made durable, then published by one rename of the manifest."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from safetensors import SafetensorError

from depthrank.artifact.adaptive import POLICY_NAME, load_policy, save_policy
from depthrank.artifact.cache import Held
from depthrank.artifact.delta_folder import DeltaManifest
from depthrank.artifact.fetch import fetch_artifact
from depthrank.artifact.fetch_pages import touch_ahead
from depthrank.artifact.fetch_sources import is_remote
from depthrank.artifact.fit import HOSTILE, check_columns, check_config, plain_spec
from depthrank.artifact.foreign import load_foreign, save_foreign
from depthrank.artifact.level_costs import level_flops_of
from depthrank.artifact.manifest import (
    FORMAT,
    MANIFEST_NAME,
    TABLES,
    FileEntry,
    Manifest,
    Verify,
    hash_file,
    read_manifest,
    verify_files,
)
from depthrank.artifact.served_precision import ServedPrecision
from depthrank.artifact.storage import saving_error, sync, sync_tree
from depthrank.artifact.weights import load_weights, save_weights
from depthrank.catalogue import Catalogue
from depthrank.errors import ArtifactError
from depthrank.features import FeatureEncoder
from depthrank.model import ElasticRanker, LevelFlops, ModelConfig
from depthrank.routing import AdaptivePolicy
from depthrank.schema import Spec
from depthrank.tables import OverlaidRows, served_tables

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
    adaptive: AdaptivePolicy | None = None


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact: ready to serve.

    ``held``: its copy in the local cache, which stays as long as this is used. ``delta``: the newest that is applied.
    ``trained``: the model in fp32, where ``model`` has layers in other formats.
    ``precision``: how its layers run on this machine, where it was asked for (``artifact.precision``).
    """

    path: Path
    manifest: Manifest
    spec: Spec
    model: ElasticRanker
    encoder: FeatureEncoder
    items: Catalogue
    users: Catalogue | None
    adaptive: AdaptivePolicy | None = None
    held: Held | None = None
    delta: DeltaManifest | None = None
    trained: ElasticRanker | None = None
    precision: ServedPrecision | None = None

    @property
    def sequence(self) -> int:
        """How many deltas are applied."""
        return 0 if self.delta is None else self.delta.sequence

    @property
    def identity(self) -> str:
        """Checksum of the newest delta, or of the manifest: what the next delta must name as its parent."""
        return self.manifest.checksum if self.delta is None else self.delta.checksum

    @property
    def served_id(self) -> str:
        """What answers name: the model's id, and how many deltas are applied."""
        return f"{self.manifest.model_id}+{self.sequence}" if self.sequence else self.manifest.model_id

    @property
    def rows_overlaid(self) -> int:
        """Table rows that lie in overlays, over the tables that are mapped."""
        sources = (table.source for table in served_tables(self.model).values())
        return sum(source.row_C.shape[0] for source in sources if isinstance(source, OverlaidRows))

    @property
    def level_flops(self) -> tuple[LevelFlops, ...]:
        """FLOPs of each level, router first. Raises ArtifactError where the manifest's are damaged."""
        return level_flops_of(self.manifest)

    def touch_ahead(self) -> int:
        """Bring the files into memory, embedding tables last, as far as there is room; returns the bytes."""
        folder, files = self.path / self.manifest.folder, self.manifest.files
        in_order = sorted(files, key=lambda name: name.startswith(TABLES))
        return touch_ahead(folder / name for name in in_order if files[name].bytes)


def save_artifact(out: str | Path, contents: Contents) -> Manifest:
    """Write ``contents`` as the artifact ``out``; an artifact that was there is replaced at once or not at all.

    Raises StorageFullError when the disk is full, ArtifactError where it cannot be written; what was there before stays
    whole, and nothing of the new one is left.
    """
    root = Path(out)
    working = root / f".writing-{os.getpid()}-{time.time_ns()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write_files(working, contents)
        manifest = _manifest_of(working, contents)
        _publish(root, working, manifest)
    except (OSError, SafetensorError) as error:
        raise saving_error(error, root) from error
    finally:
        shutil.rmtree(working, ignore_errors=True)
    _remove_others(root, manifest.folder)
    return manifest


def load_artifact(location: str | Path, *, verify: Verify = "dense", copy: bool = False) -> Artifact:
    """Load an artifact; raises ArtifactError with one clear reason where it is missing, damaged or newer.

    ``location``: a folder, or a URL that fsspec reads, which is copied into the local cache and verified on the way.
    ``copy``: serve a folder from such a copy too, so that nobody who truncates its files can end this process.
    ``verify``: what is compared with the manifest's checksums: "all" files, all but the embedding tables ("dense"), or
    only their "sizes". An artifact that is replaced meanwhile is read again.
    """
    held = fetch_artifact(location) if copy or is_remote(location) else None
    root = Path(location) if held is None else held.path
    while True:
        manifest = read_manifest(root)
        try:
            verify_files(root, manifest, verify)
            return replace(_load(root, manifest), held=held)
        except ArtifactError:
            if read_manifest(root).folder == manifest.folder:
                raise


def verify_artifact(path: str | Path) -> Manifest:
    """Check every byte of an artifact against its manifest; raises ArtifactError at the first difference."""
    manifest = read_manifest(Path(path))
    verify_files(Path(path), manifest)
    return manifest


def _load(root: Path, manifest: Manifest) -> Artifact:
    """Read what the manifest names, and check that the parts belong together before any weight is read."""
    folder = root / manifest.folder
    try:
        spec = Spec.from_plain(manifest.spec, folder=str(root))
        config = ModelConfig.from_plain(manifest.model)
        encoder = FeatureEncoder.load(folder / "features")
        items = Catalogue.load(folder / "items")
        has_users = any(name.startswith("users/") for name in manifest.files)
        users = Catalogue.load(folder / "users") if has_users else None
        check_config(config, spec, encoder)
        check_columns(encoder, items, users)
    except ArtifactError:
        raise
    except HOSTILE as error:
        raise ArtifactError(
            f"{root} does not hold an artifact of this version: {type(error).__name__}: {error}"
        ) from error
    model = load_weights(config, folder)
    load_foreign(model, folder, encoder.layout)
    adaptive = load_policy(model, folder) if POLICY_NAME in manifest.files else None
    return Artifact(root, manifest, spec, model, encoder, items, users, adaptive)


def _write_files(folder: Path, contents: Contents) -> None:
    folder.mkdir()
    save_weights(contents.model, folder)
    save_foreign(contents.model, folder)
    contents.encoder.save(folder / "features")
    contents.items.save(folder / "items")
    if contents.users is not None:
        contents.users.save(folder / "users")
    if contents.adaptive is not None:
        save_policy(contents.adaptive, contents.model, folder)
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
        spec=plain_spec(contents.spec),
        model=contents.model.config.to_plain(),
        log_position=contents.log_position,
        log_url=contents.log_url,
        training=contents.training,
        files=files,
    ).sealed()


def _publish(root: Path, working: Path, manifest: Manifest) -> None:
    """Make everything durable, move the folder to its name, then replace the manifest: the one commit point.

    What fails before that point leaves nothing behind; what fails after it leaves the new artifact in place.
    """
    sync_tree(working)
    folder, fresh = root / manifest.folder, root / f".{MANIFEST_NAME}.new"
    published = False
    try:
        working.rename(folder)
        sync(root)  # the folder's name is on disk before a manifest that refers to it
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        sync(fresh)
        fresh.rename(root / MANIFEST_NAME)
        published = True
        sync(root)
        sync(root.parent)
    finally:
        if not published:
            fresh.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def _remove_others(root: Path, keep: str) -> None:
    """Drop earlier generations and unfinished ones; a server that has them mapped keeps its pages until it exits."""
    for path in root.iterdir():
        if path.is_dir() and path.name != keep and path.name.startswith(("files-", ".writing-")):
            shutil.rmtree(path, ignore_errors=True)

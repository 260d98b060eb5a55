"""A saved artifact to spoil, and a maker of artifacts whose checksums fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from small_artifact import make_contents

from depthrank.artifact import Manifest, save_artifact
from depthrank.artifact.manifest import hash_file


@pytest.fixture(scope="session")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifact") / "artifact"
    save_artifact(root, make_contents())
    return root


@pytest.fixture
def artifact(saved_once: Path, tmp_path: Path) -> Path:
    """A saved artifact to spoil."""
    shutil.copytree(saved_once, tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def reseal() -> Callable[..., None]:
    """Write the manifest again so that its checksums fit: what a hostile maker of artifacts would do."""

    def seal(root: Path, **changes: object) -> None:
        manifest = msgspec.json.decode((root / "manifest.json").read_bytes(), type=Manifest)
        folder = root / manifest.folder
        files = {n: hash_file(folder / n) if (folder / n).is_file() else f for n, f in manifest.files.items()}
        sealed = msgspec.structs.replace(manifest, **{"files": files, **changes}).sealed()
        (root / "manifest.json").write_bytes(msgspec.json.encode(sealed))

    return seal

"""What an artifact holds, for people and for `depthrank inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthrank.artifact.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class ArtifactInfo:
    """The manifest, and bytes by kind of file."""

    manifest: Manifest
    bytes_total: int
    bytes_tables: int
    bytes_dense: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        m = self.manifest
        return {
            "name": m.name,
            "model": m.model_id,
            "format": m.format,
            "depthrank": m.depthrank,
            "created_ms": m.created_ms,
            "log_position": m.log_position,
            "tasks": list(m.spec["tasks"]),
            "levels": 1 + len(m.model["levels"]),
            "width": m.model["width"],
            "bytes": {"total": self.bytes_total, "tables": self.bytes_tables, "dense": self.bytes_dense},
            "training": m.training,
            "files": {name: {"bytes": f.bytes, "blake3": f.blake3} for name, f in m.files.items()},
        }


def inspect_artifact(path: str | Path) -> ArtifactInfo:
    """Read an artifact's manifest; raises ArtifactError."""
    manifest = read_manifest(Path(path))
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    tables = sum(size for name, size in sizes.items() if name.startswith("tables/"))
    return ArtifactInfo(manifest, sum(sizes.values()), tables, sizes.get("dense.safetensors", 0))

"""From a folder or URL to an artifact that is ready to serve: formats, hot rows, deltas, compiled levels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from depthrank.artifact import Artifact, apply_deltas, load_artifact, with_hot_rows, with_precision
from depthrank.engine.compiled_levels import with_compiled_levels


def ready_artifact(
    path: str | Path,
    *,
    copy: bool = False,
    precision: Literal["policy", "fp32"] = "policy",
    deltas: str | Path | None = None,
    hot_row_bytes: int = 0,
) -> Artifact:
    """As ``Ranker.load`` says; raises ArtifactError."""
    artifact = with_precision(load_artifact(path, copy=copy), path, precision)
    artifact = with_hot_rows(artifact, hot_row_bytes)
    if deltas is not None:
        artifact = apply_deltas(artifact, deltas)
    return with_compiled_levels(artifact)

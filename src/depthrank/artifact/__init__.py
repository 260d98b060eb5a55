"""A trained model on disk, with everything needed to serve it; no pickle, nothing executable."""

from __future__ import annotations

from depthrank.artifact.adaptive import model_identity
from depthrank.artifact.default_log import default_log_url
from depthrank.artifact.inspect import ArtifactInfo, inspect_artifact
from depthrank.artifact.manifest import FileEntry, Manifest, read_manifest
from depthrank.artifact.store import Artifact, Contents, load_artifact, save_artifact, verify_artifact

__all__ = [
    "Artifact",
    "ArtifactInfo",
    "Contents",
    "FileEntry",
    "Manifest",
    "default_log_url",
    "inspect_artifact",
    "load_artifact",
    "model_identity",
    "read_manifest",
    "save_artifact",
    "verify_artifact",
]

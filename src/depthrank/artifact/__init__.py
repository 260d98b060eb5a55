"""A trained model on disk, with everything needed to serve it; no pickle, nothing executable."""

from __future__ import annotations

from depthrank.artifact.adaptive import model_identity
from depthrank.artifact.cache import Cache, Held
from depthrank.artifact.default_log import default_log_url
from depthrank.artifact.fetch import fetch_artifact
from depthrank.artifact.fetch_sources import is_remote
from depthrank.artifact.inspect import ArtifactInfo, inspect_artifact
from depthrank.artifact.manifest import FileEntry, Manifest, Verify, read_manifest
from depthrank.artifact.store import Artifact, Contents, load_artifact, save_artifact, verify_artifact

__all__ = [
    "Artifact",
    "ArtifactInfo",
    "Cache",
    "Contents",
    "FileEntry",
    "Held",
    "Manifest",
    "Verify",
    "default_log_url",
    "fetch_artifact",
    "inspect_artifact",
    "is_remote",
    "load_artifact",
    "model_identity",
    "read_manifest",
    "save_artifact",
    "verify_artifact",
]

"""A trained model on disk, with everything needed to serve it; no pickle, nothing executable."""

from __future__ import annotations

from depthrank.artifact.adaptive import model_identity
from depthrank.artifact.cache import Cache, Held
from depthrank.artifact.default_log import default_log_url
from depthrank.artifact.delta_apply import Delta, apply_columns, apply_deltas, load_delta, with_delta
from depthrank.artifact.delta_compact import compacted, compaction_is_due
from depthrank.artifact.delta_folder import DeltaManifest, delta_folders, read_delta
from depthrank.artifact.delta_make import make_delta
from depthrank.artifact.fetch import fetch_artifact
from depthrank.artifact.fetch_sources import is_remote
from depthrank.artifact.hot_tables import hot_row_measures, with_hot_rows
from depthrank.artifact.inspect import ArtifactInfo, inspect_artifact
from depthrank.artifact.level_costs import with_level_flops
from depthrank.artifact.manifest import FileEntry, Manifest, Verify, read_manifest
from depthrank.artifact.precision import check_policy, with_precision
from depthrank.artifact.served_precision import ServedPrecision
from depthrank.artifact.store import Artifact, Contents, load_artifact, save_artifact, verify_artifact

__all__ = [
    "Artifact",
    "ArtifactInfo",
    "Cache",
    "Contents",
    "Delta",
    "DeltaManifest",
    "FileEntry",
    "Held",
    "Manifest",
    "ServedPrecision",
    "Verify",
    "apply_columns",
    "apply_deltas",
    "check_policy",
    "compacted",
    "compaction_is_due",
    "default_log_url",
    "delta_folders",
    "fetch_artifact",
    "hot_row_measures",
    "inspect_artifact",
    "is_remote",
    "load_artifact",
    "load_delta",
    "make_delta",
    "model_identity",
    "read_delta",
    "read_manifest",
    "save_artifact",
    "verify_artifact",
    "with_delta",
    "with_hot_rows",
    "with_level_flops",
    "with_precision",
]

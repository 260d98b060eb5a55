"""Model versions under traffic: loaded, labelled (stable, canary, shadow), compared, rolled back and unloaded."""

from __future__ import annotations

from depthrank.server.models.lease import Lease
from depthrank.server.models.settings import ModelSettings
from depthrank.server.models.versions import ModelConflictError, Models

__all__ = ["Lease", "ModelConflictError", "ModelSettings", "Models"]

"""Where an artifact's event log lies unless somebody names another: training writes there, serving reads there."""

from __future__ import annotations

from pathlib import Path


def default_log_url(artifact: str | Path) -> str:
    """The URL of the folder ``events`` beside the artifact."""
    return f"lmdb:{Path(artifact).resolve().parent / 'events'}"

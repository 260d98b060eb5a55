"""The default backend: LMDB, in a folder."""

from __future__ import annotations

from depthrank.events.on_lmdb.log import LmdbEventLog

__all__ = ["LmdbEventLog"]

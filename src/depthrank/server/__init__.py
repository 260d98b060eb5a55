"""HTTP over the engine: one process that ranks, appends and shows, within limits."""

from __future__ import annotations

from depthrank.server.app import create_app
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.serve import ServerError, serve
from depthrank.server.settings import ServerSettings

__all__ = ["ServedRanker", "ServerError", "ServerSettings", "create_app", "serve"]

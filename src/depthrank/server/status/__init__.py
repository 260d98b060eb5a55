"""What is going on now: figures of the last seconds, recent requests, what the processes use."""

from __future__ import annotations

from depthrank.server.status.live import LiveStatus

__all__ = ["LiveStatus"]

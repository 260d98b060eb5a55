"""The backend for a fleet: a Redis or Valkey server. Needs the extra ``depthrank[redis]``."""

from __future__ import annotations

from depthrank.events.on_redis.log import RedisEventLog

__all__ = ["RedisEventLog"]

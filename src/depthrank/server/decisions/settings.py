"""What is kept of decisions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class DecisionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """share: of the requests whose decision is recorded (0: none). folder: where; None: ``decisions`` beside the
    artifact that is served. max_bytes, file_bytes: of all files and of one; the oldest goes first. queue: records that
    wait for the disk; beyond it they are dropped and counted. drift_hours: how long hourly figures are kept.
    drift_impressions: shown items that wait for their labels; beyond it requests are left out and counted.
    warm_requests: recorded requests, the newest, that a server which starts ranks before it is ready, for at most
    warm_seconds.
    """

    share: float = 0.01
    folder: str | None = None
    max_bytes: int = 64 << 20
    file_bytes: int = 8 << 20
    queue: int = 256
    drift_hours: int = 48
    drift_impressions: int = 200_000
    warm_requests: Annotated[int, Meta(ge=0)] = 32
    warm_seconds: Annotated[float, Meta(gt=0)] = 0.3

"""The newest recorded requests, to warm up with: what users really asked touches the pages, sizes and kernels that the
next ones need. A record that no longer fits (another spec, a torn line) is passed over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from depthrank.errors import DepthrankError
from depthrank.schema import Request
from depthrank.server.decisions.decision_files import PATTERN

logger = logging.getLogger("depthrank.server")


def recorded_requests(folder: Path, most: int) -> list[Request]:
    """Up to ``most`` requests, newest first, as if they came now: without time, deadline or budget of their own."""
    found: list[Request] = []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        for line in reversed(path.read_bytes().splitlines()):
            if len(found) >= most:
                return found
            request = _request_of(line)
            if request is not None:
                found.append(request)
    return found


def rank_recorded(
    folder: Path | None,
    most: int,
    rank: Callable[[Request], Any],
    *,
    seconds: float,
    clock_s: Callable[[], float] = time.monotonic,
) -> int:
    """Rank recorded requests until there are no more or ``seconds`` are over; returns how many were ranked.

    One that is refused, as its items or columns are gone, is passed over.
    """
    if folder is None or not most:
        return 0
    until, ranked, refused = clock_s() + seconds, 0, 0
    try:
        requests = recorded_requests(folder, most)
    except OSError as error:
        logger.warning("no recorded requests to warm up with: %s", error)
        return 0
    for request in requests:
        if clock_s() >= until:
            break
        try:
            rank(request)
            ranked += 1
        except DepthrankError:
            refused += 1
    if requests:
        logger.info("warmed up with %d recorded requests, %d no longer fit", ranked, refused)
    return ranked


def _request_of(line: bytes) -> Request | None:
    try:
        record = msgspec.json.decode(line)
        request = msgspec.convert(record["request"], Request)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, KeyError, TypeError):
        return None
    return msgspec.structs.replace(request, time_ms=None, deadline_ms=None, budget=None)

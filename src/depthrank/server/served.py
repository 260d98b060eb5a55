"""Served impressions on their way to the log, after the answers have left; lost ones are counted, never retried."""

from __future__ import annotations

import logging
from collections.abc import Callable

from depthrank.errors import LogError, RequestError, StorageFullError
from depthrank.schema import Answer, Request
from depthrank.server.bounded_pool import BoundedPool, OverloadError
from depthrank.server.metrics import ServerMetrics

logger = logging.getLogger("depthrank.server")
Record = Callable[[Request, Answer], object]


class ServedImpressions:
    """One background thread that logs what was shown; an answer never waits for it and never fails with it.

    ``trouble`` says in a few words why impressions are being lost now, or None.
    """

    def __init__(self, record: Record, queue: int, metrics: ServerMetrics) -> None:
        self._record = record
        self._pool = BoundedPool("served-impressions", threads=1, queue=queue)
        self._metrics = metrics
        self.trouble: str | None = None

    @property
    def waiting(self) -> int:
        return self._pool.admitted

    def put(self, request: Request, answer: Answer) -> None:
        """Log the impressions of an answer soon."""
        try:
            self._pool.submit(self._write, request, answer)
        except OverloadError as error:
            self._lost("queue_full", answer, error)

    def close(self) -> None:
        """Write everything that waits."""
        self._pool.close()

    def _write(self, request: Request, answer: Answer) -> None:
        try:
            self._record(request, answer)
        except StorageFullError as error:
            self._lost("storage_full", answer, error)
        except LogError as error:
            self._lost("log", answer, error)
        except RequestError as error:  # ids that ranking takes and the log does not, such as several megabytes
            self._lost("refused", answer, error)
        except Exception as error:  # nobody waits for this call, so the server's log is the only witness
            logger.exception("request %s: its impressions were not logged", answer.request_id)
            self._lost("internal", answer, error)
        else:
            self._metrics.served.inc()
            self.trouble = None

    def _lost(self, reason: str, answer: Answer, error: Exception) -> None:
        self._metrics.served_lost.labels(reason).inc()
        if self.trouble != reason:  # once per trouble, not once per answer
            logger.error("request %s: served impressions are being lost (%s): %s", answer.request_id, reason, error)
        self.trouble = reason

"""Served impressions on their way to the log, after the answers have left; lost ones are counted, never retried.

An append costs a millisecond of CPU, most of it once a call: of answers one by one it took a seventh of the cheapest
request's. What is shown within ``GATHER_S`` goes in one, so fewer of the requests that follow meet one, too.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from depthrank.errors import LogError, RequestError, StorageFullError
from depthrank.schema import Answer, Request
from depthrank.server.metrics import ServerMetrics

logger = logging.getLogger("depthrank.server")
Shown = tuple[Request, Answer]
Record = Callable[[Sequence[Shown]], object]
GATHER_S = 0.1
MOST_TOGETHER = 64


class ServedImpressions:
    """One background thread that logs what was shown; an answer never waits for it and never fails with it.

    ``record`` logs several answers, all or none. ``queue``: answers that may wait beside the one that is being logged.
    ``trouble`` says in a few words why impressions are being lost now, or None.
    """

    def __init__(self, record: Record, queue: int, metrics: ServerMetrics, gather_s: float = GATHER_S) -> None:
        self._record, self._metrics, self._gather_s = record, metrics, gather_s
        self._capacity = queue + 1
        self._shown: deque[Shown] = deque()
        self._writing = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="depthrank-served-impressions", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that wait or are being logged."""
        return len(self._shown) + self._writing

    def put(self, request: Request, answer: Answer) -> None:
        """Log the impressions of an answer soon."""
        with self._changed:
            fits = not self._closing.is_set() and self.waiting < self._capacity
            if fits:
                self._shown.append((request, answer))
                self._changed.notify()
        if not fits:
            self._lost("queue_full", [(request, answer)], f"{self._capacity} answers wait to be logged already")

    def close(self) -> None:
        """Write everything that waits."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while together := self._next():
            self._write(together)
            self._writing = 0

    def _next(self) -> list[Shown]:
        """What is logged next; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._shown or self._closing.is_set())
        self._closing.wait(self._gather_s)
        with self._changed:
            together = [self._shown.popleft() for _ in range(min(MOST_TOGETHER, len(self._shown)))]
            self._writing = len(together)
        return together

    def _write(self, shown: Sequence[Shown]) -> None:
        try:
            self._record(shown)
        except StorageFullError as error:
            self._lost("storage_full", shown, error)
        except LogError as error:
            self._lost("log", shown, error)
        except RequestError as error:  # ids that ranking takes and the log does not, such as several megabytes
            if len(shown) > 1:
                for one in shown:
                    self._write([one])
            else:
                self._lost("refused", shown, error)
        except Exception as error:  # nobody waits for this call, so the server's log is the only witness
            logger.exception("%s: their impressions were not logged", _requests(shown))
            self._lost("internal", shown, error)
        else:
            self._metrics.served.inc(len(shown))
            self.trouble = None

    def _lost(self, reason: str, shown: Sequence[Shown], why: object) -> None:
        self._metrics.served_lost.labels(reason).inc(len(shown))
        if self.trouble != reason:  # once per trouble, not once per answer
            logger.error("%s: served impressions are being lost (%s): %s", _requests(shown), reason, why)
        self.trouble = reason


def _requests(shown: Sequence[Shown]) -> str:
    """Whose impressions, for people."""
    first = f"request {shown[0][1].request_id}"
    return first if len(shown) == 1 else f"{first} and {len(shown) - 1} more"

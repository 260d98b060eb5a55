"""The shadow gets copies of some requests after their answers have left; it answers nobody and is compared with stable.

It runs when nothing else waits: a copy is dropped, and counted, where the queue is full or requests are waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import perf_counter

import msgspec

from depthrank.schema import Answer, Request
from depthrank.server.bounded_pool import BoundedPool, OverloadError
from depthrank.server.models.versions import Models

logger = logging.getLogger("depthrank.server")
TOP = 10


class Agreement:
    """Sums over compared answers: overlap of the first ten, relative difference of values of items in both."""

    def __init__(self) -> None:
        self.answers = self.failed = self.dropped_load = self.dropped_queue = 0
        self.overlap = self.difference = self.seconds = 0.0

    def add(self, answer: Answer, shadow: Answer, seconds: float) -> None:
        """One more pair."""
        self.answers += 1
        self.overlap += top_overlap(answer, shadow)
        self.difference += value_difference(answer, shadow)
        self.seconds += seconds


class Shadow:
    """``busy`` says whether requests wait now."""

    def __init__(self, models: Models, busy: Callable[[], bool]) -> None:
        self._models, self._busy = models, busy
        self._pool = BoundedPool("shadow", threads=1, queue=models.settings.shadow_queue)
        self._lock = threading.Lock()
        self._of: dict[str, Agreement] = {}

    @property
    def agreement(self) -> dict[str, Agreement]:
        """By the shadow's model id, of shadows that are loaded."""
        loaded = {version.model for version in self._models.versions}
        with self._lock:
            self._of = {model: agreement for model, agreement in self._of.items() if model in loaded}
            return dict(self._of)

    def offer(self, request: Request, answer: Answer) -> None:
        """Copy a request to the shadow, where its turn is and there is room. ``request`` has its time."""
        labels = self._models.labels
        if not labels.shadows(answer.request_id) or labels.shadow is None:
            return
        agreement = self._agreement(labels.shadow.model)
        if self._busy():
            agreement.dropped_load += 1
            return
        try:
            self._pool.submit(self._compare, request, answer)
        except OverloadError:
            agreement.dropped_queue += 1

    def close(self) -> None:
        """Finish what waits."""
        self._pool.close()

    def _agreement(self, model: str) -> Agreement:
        with self._lock:
            return self._of.setdefault(model, Agreement())

    def _compare(self, request: Request, answer: Answer) -> None:
        lease = self._models.lease_of("shadow")
        if lease is None:
            return
        with lease:
            agreement, started = self._agreement(lease.version.model), perf_counter()
            copy = msgspec.structs.replace(request, deadline_ms=None, explain=False)
            try:
                told = lease.ranker.rank(copy, arrived_s=started, request_id=answer.request_id, checked=True)
            except Exception:
                agreement.failed += 1
                if agreement.failed == 1:  # once a shadow, not once a request
                    logger.warning(
                        "request %s: the shadow %s failed", answer.request_id, lease.version.model, exc_info=True
                    )
            else:
                agreement.add(answer, told, perf_counter() - started)


def top_overlap(a: Answer, b: Answer) -> float:
    """Share of the first ten of ``a`` among the first ten of ``b``; 1 where both are empty."""
    first, second = ({item.item for item in answer.items[:TOP]} for answer in (a, b))
    return len(first & second) / len(first) if first else float(not second)


def value_difference(a: Answer, b: Answer) -> float:
    """Mean of |difference| / larger of the values of items in both; 0 where there is none."""
    values = {item.item: item.value for item in b.items}
    both = [(item.value, values[item.item]) for item in a.items if item.item in values]
    return sum(abs(x - y) / max(abs(x), abs(y), 1e-30) for x, y in both) / len(both) if both else 0.0

"""Quotas per client: token buckets of requests and of candidates, with an injected clock.

A bucket holds at most ``burst_s`` seconds of its rate. A request takes one from the first bucket. Candidates are known
only after decoding, and one request may ask for more than a bucket holds, so that bucket lets in whoever finds it above
zero and may go below: the client then waits until it has paid.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from depthrank.errors import DepthrankError
from depthrank.server.access.settings import QuotaRates, QuotaSettings


class QuotaError(DepthrankError):
    """A client has used up its quota; ``retry_after_s`` is when it has something again (HTTP 429)."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


@dataclass(slots=True)
class _Bucket:
    rate: float
    capacity: float
    level: float
    at_s: float

    def refill(self, now_s: float) -> None:
        # A clock that steps back gives nothing and takes nothing.
        self.level = min(self.capacity, self.level + max(0.0, now_s - self.at_s) * self.rate)
        self.at_s = now_s

    def take_whole(self, amount: float) -> float:
        """Seconds until ``amount`` is there; 0.0 where it was, and is taken."""
        if self.level >= amount:
            self.level -= amount
            return 0.0
        return (amount - self.level) / self.rate

    def take_on_credit(self, amount: float) -> float:
        """Seconds until the bucket is above zero; 0.0 where it was, and the amount is taken, below zero if need be."""
        if self.level > 0:
            self.level -= amount
            return 0.0
        return -self.level / self.rate + 1e-3


@dataclass(slots=True)
class _Buckets:
    requests: _Bucket | None
    candidates: _Bucket | None


class Quotas:
    """What each client has left. Used on the event loop alone, so it needs no lock."""

    def __init__(
        self,
        settings: QuotaSettings,
        clock_s: Callable[[], float] = time.monotonic,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._settings, self._clock_s = settings, clock_s
        self._clients: OrderedDict[str, _Buckets] = OrderedDict()
        self._refused = Counter(
            "depthrank_quota_refused",
            "Requests beyond their client's quota; gate dry_run: they were let in",
            ("quota", "gate"),
            registry=registry,
        )

    def renew(self, settings: QuotaSettings) -> None:
        """Count by other settings from now on; everybody begins with a full bucket, where they differ."""
        if settings != self._settings:
            self._settings = settings
            self._clients.clear()

    def charge_request(self, client: str) -> None:
        """Count one request. Raises QuotaError."""
        buckets = self._buckets(client)
        if buckets is not None and buckets.requests is not None:
            self._settle("requests", buckets.requests, buckets.requests.take_whole(1.0))

    def charge_candidates(self, client: str, num_candidates: int) -> None:
        """Count what is asked to be ranked. Raises QuotaError."""
        buckets = self._buckets(client)
        if buckets is not None and buckets.candidates is not None:
            bucket = buckets.candidates
            self._settle("candidates", bucket, bucket.take_on_credit(num_candidates))

    def _settle(self, quota: str, bucket: _Bucket, wait_s: float) -> None:
        if wait_s == 0.0:
            return
        self._refused.labels(quota, self._settings.gate).inc()
        if self._settings.gate == "enforce":
            raise QuotaError(f"this client may use {bucket.rate:g} {quota} a second", max(1, math.ceil(wait_s)))

    def _buckets(self, client: str) -> _Buckets | None:
        if self._settings.gate == "off":
            return None
        name = client.removeprefix("token:") if client.startswith("token:") else None
        rates = self._settings.default if name is None else self._settings.tokens.get(name, self._settings.default)
        if rates.requests_per_s is None and rates.candidates_per_s is None:
            return None
        now_s = self._clock_s()
        found = self._clients.get(client)
        if found is None:
            found = self._clients[client] = self._full(rates, now_s)
            if len(self._clients) > self._settings.max_clients:
                self._clients.popitem(last=False)
        self._clients.move_to_end(client)
        for bucket in (found.requests, found.candidates):
            if bucket is not None:
                bucket.refill(now_s)
        return found

    def _full(self, rates: QuotaRates, now_s: float) -> _Buckets:
        def bucket(rate: float | None) -> _Bucket | None:
            if rate is None:
                return None
            capacity = max(1.0, rate * self._settings.burst_s)
            return _Bucket(rate, capacity, capacity, now_s)

        return _Buckets(bucket(rates.requests_per_s), bucket(rates.candidates_per_s))

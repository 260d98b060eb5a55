"""How a server runs: limits, threads, queues and patience. Everything has a default that suits one machine."""

from __future__ import annotations

import msgspec

from depthrank.schema import Limits


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``rank_queue`` and ``log_queue`` bound what waits beside what runs; beyond them the answer is 503.

    limits: what a body may hold. rank_threads: threads that score; one, since one request uses the cores itself.
    log_threads: concurrent appends, reads and upserts; appends that wait together share one fsync.
    served_queue: answers whose impressions wait to be logged; beyond it they are dropped and counted.
    body_timeout_s: a body that takes longer is a 408. drain_timeout_s: how long SIGTERM waits for requests under way.
    max_history: events that a history returns. decode_in_thread_bytes: larger bodies are not decoded on the event loop.
    """

    limits: Limits = Limits()
    rank_threads: int = 1
    rank_queue: int = 64
    log_threads: int = 16
    log_queue: int = 1_024
    served_queue: int = 1_024
    log_served: bool = True
    body_timeout_s: float = 30.0
    drain_timeout_s: int = 30
    keep_alive_s: int = 75
    max_history: int = 10_000
    decode_in_thread_bytes: int = 256 * 1024

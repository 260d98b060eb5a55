"""What the server asks of a ranker; ``depthrank.engine.Ranker`` offers it, and so may somebody's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.events import AppendResult, EraseResult, EventBatch
from depthrank.schema import Answer, Request, Spec


class HasItems(Protocol):
    """What is being served now."""

    @property
    def items(self) -> Catalogue: ...


class ServedRanker(Protocol):
    """A loaded model with its catalogue and event log; safe for use by several threads.

    ``arrived_s`` (``time.perf_counter``) is when a deadline starts; ``checked``: the server has checked the request.
    ``history`` is newest first. ``measures`` are numbers for the metrics, by the names in ``RankerMetrics``; what is
    not there is not exported.
    """

    @property
    def spec(self) -> Spec: ...
    @property
    def generation(self) -> HasItems: ...
    def rank(
        self, request: Request, *, arrived_s: float | None = None, request_id: str | None = None, checked: bool = False
    ) -> Answer: ...
    def append(self, events: EventBatch) -> AppendResult: ...
    def upsert_items(self, columns: Mapping[str, Sequence[Any]]) -> UpsertResult: ...
    def history(self, user: str, limit: int) -> list[dict[str, Any]]: ...
    def erase(self, user: str) -> EraseResult: ...
    def record_served(self, request: Request, answer: Answer) -> object: ...
    def info(self) -> dict[str, Any]: ...
    def measures(self) -> Mapping[str, float]: ...
    def warm(self) -> object: ...

"""What the server asks of a ranker; ``depthrank.engine.Ranker`` offers it, and so may somebody's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.events import AppendResult, EraseResult, EventBatch
from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Request, Spec
from depthrank.schema.ask import Ask


class HasItems(Protocol):
    """What is being served now."""

    @property
    def items(self) -> Catalogue: ...


@runtime_checkable
class TakesDeltas(Protocol):
    """A ranker that can be changed in part while it serves. ``apply_delta`` raises ArtifactError where it refuses;
    ``compact_if_due`` tidies up after it, with the same answers."""

    def apply_delta(self, path: str | Path) -> object: ...
    def compact_if_due(self) -> object: ...


@runtime_checkable
class RanksTogether(Protocol):
    """A ranker that ranks several checked requests at once; in the place of one that fails, why."""

    def rank_together(self, asks: Sequence[Ask]) -> list[Answer | Exception]: ...


class ServedRanker(Protocol):
    """A loaded model with its catalogue and event log; safe for use by several threads.

    ``arrived_s`` (``time.perf_counter``) is when a deadline starts; ``checked``: the server has checked the request;
    ``record``: fill ``answer.record``; ``price``: of compute to this request; ``spent``: fill ``answer.spent``.
    Several versions share one log: ``append``, ``upsert_items`` and ``erase`` change it, and the other versions are
    told by ``observe``, ``apply_upserts`` and ``forget``. ``close`` lets go of the model, not of the log.
    ``economy``: what requests cost; None where that is not known, and admission then counts on nothing. ``history``
    is newest first. ``measures`` are numbers for the metrics, by the names in ``RankerMetrics``; what is not there is
    not exported.
    """

    @property
    def spec(self) -> Spec: ...
    @property
    def model_id(self) -> str: ...
    @property
    def generation(self) -> HasItems: ...
    def rank(
        self,
        request: Request,
        *,
        arrived_s: float | None = None,
        request_id: str | None = None,
        checked: bool = False,
        record: bool = False,
        price: float | None = None,
        spent: bool = False,
    ) -> Answer: ...
    def economy(self) -> Economy | None: ...
    def append(self, events: EventBatch) -> AppendResult: ...
    def upsert_items(self, columns: Mapping[str, Sequence[Any]]) -> UpsertResult: ...
    def history(self, user: str, limit: int) -> list[dict[str, Any]]: ...
    def some_users(self, limit: int) -> list[str]: ...
    def erase(self, user: str) -> EraseResult: ...
    def observe(self, events: EventBatch) -> None: ...
    def apply_upserts(self) -> None: ...
    def forget(self, user: str) -> None: ...
    def log_position(self) -> int | None: ...
    def record_all_served(self, shown: Sequence[tuple[Request, Answer]]) -> object: ...
    def info(self) -> dict[str, Any]: ...
    def measures(self) -> Mapping[str, float]: ...
    def warm(self) -> object: ...
    def close(self) -> None: ...

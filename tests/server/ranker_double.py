"""A ranker without a model: what the server asks for, in memory, with gates and faults that a test can set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.errors import FieldProblem, RequestError
from depthrank.events import AppendResult, EraseResult, EventBatch
from depthrank.schema import Answer, Degraded, RankedItem, Request, Spec

TITLES = ["Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Twelve Monkeys", "Babe", "Se7en"]


def small_spec(time_column: object = "order") -> Spec:
    return Spec.from_plain(
        {
            "name": "double",
            "dataset": {
                "items": {"path": "items.csv", "id": "item"},
                "events": {
                    "path": "events.csv",
                    "user": "user",
                    "item": "item",
                    "time": time_column,
                    "action": "click",
                },
            },
            "features": {"item_id": {"kind": "categorical", "source": "item.id"}},
            "tasks": {"click": {"action": "click"}, "like": {"action": "like"}},
            "value": {"weights": {"click": 1.0, "like": 2.0}},
        }
    )


def small_catalogue(num_items: int) -> Catalogue:
    ids = [str(i + 1) for i in range(num_items)]
    return Catalogue.build(
        "item",
        ids,
        {
            "title": [f"{TITLES[i % len(TITLES)]} {i // len(TITLES) + 1}" for i in range(num_items)],
            "year": [1990 + i % 9 if i % 5 else None for i in range(num_items)],
            "genres": [["drama", "war"][: i % 3] for i in range(num_items)],
        },
    )


class RankerDouble:
    """Ranks by a fixed value of the id plus the user's clicks on it; ``gate`` holds every rank back until it is set."""

    model_id = "double"

    def __init__(self, num_items: int = 40, spec: Spec | None = None) -> None:
        self.spec = spec or small_spec({"column": "time", "unit": "ms"})
        self.generation = SimpleNamespace(items=small_catalogue(num_items))
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.warm_gate = threading.Event()
        self.warm_gate.set()
        self.events: list[tuple[str, str, str, int]] = []
        self.event_ids: set[str] = set()
        self.batches: list[EventBatch] = []
        self.ranked: list[Request] = []
        self.recorded: list[tuple[Request, Answer]] = []
        self.append_fault: Callable[[], None] = lambda: None
        self.record_fault: Callable[[], None] = lambda: None
        self.rank_fault: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        self.closed = False

    def rank(
        self,
        request: Request,
        *,
        arrived_s: float | None = None,
        request_id: str | None = None,
        checked: bool = False,
        **options: Any,
    ) -> Answer:
        assert arrived_s is not None and arrived_s <= time.perf_counter()
        self.entered.release()
        assert self.gate.wait(30)
        self.rank_fault()
        self.ranked.append(request)
        started = time.perf_counter()
        ids = self._candidates(request)
        clicks = [
            (item, action) for user, item, action, at in self.events if user == request.user and at < request.time_ms
        ]
        rows = [(self._value(item, clicks), item) for item in ids]
        rows.sort(key=lambda row: (-row[0], row[1]))
        items = [
            RankedItem(item, value, {"click": value / 4, "like": value / 8}, 1 if i < 16 else 0)
            for i, (value, item) in enumerate(rows[: request.top])
        ]
        spent = (time.perf_counter() - started) * 1000
        return Answer(
            request_id=request_id or "the engine's own",
            model="double",
            items=items,
            plan=[len(ids), min(16, len(ids))],
            candidates_scored=[len(ids), min(16, len(ids))],
            timings_ms={"history": spent / 4, "features": spent / 4, "level_0": spent / 4, "expert": spent / 4},
            degraded=Degraded(),
            explain=self._explain(items) if request.explain else None,
        )

    def _candidates(self, request: Request) -> list[str]:
        """Ids as texts, also where they came as an array."""
        if isinstance(request.candidates, str):
            return self.generation.items.ids_of(range(1, self.generation.items.size))
        if isinstance(request.candidates, dict):
            if None in list(request.candidates.get("bid", [])):
                row = request.candidates["bid"].index(None)
                raise RequestError("wrong:", [FieldProblem(f"$.candidates.bid[{row}]", "nothing", "a number")])
            return list(map(str, request.candidates["item"]))
        return list(map(str, request.candidates))

    def _explain(self, items: list[RankedItem]) -> dict[str, Any]:
        because = [{"item": "3", "actions": ["click"], "adds": 0.25}]
        return {"story": ["Two levels were asked."], "items": [{"item": i.item, "because": because} for i in items]}

    def _value(self, item: str, clicks: list[tuple[str, str]]) -> float:
        base = (sum(map(ord, item[:20])) * 37 % 100) / 100
        return base + sum(1.5 if action == "like" else 1.0 for clicked, action in clicks if clicked == item)

    def append(self, events: EventBatch) -> AppendResult:
        self.append_fault()
        with self.lock:
            self.batches.append(events)
            positions = []
            for i, row in enumerate(zip(events.user, events.item, events.action, events.time_ms.tolist(), strict=True)):
                event_id = events.event_id[i] if events.event_id else None
                if event_id is not None and event_id in self.event_ids:
                    positions.append(-1)
                    continue
                self.event_ids.update([event_id] if event_id is not None else [])
                positions.append(len(self.events))
                self.events.append(row)
        fresh = sum(p >= 0 for p in positions)
        return AppendResult(np.array(positions, np.int64), fresh, len(positions) - fresh)

    def upsert_items(self, columns: Mapping[str, Sequence[Any]]) -> UpsertResult:
        return self.generation.items.upsert(columns)

    def history(self, user: str, limit: int) -> list[dict[str, Any]]:
        own = [e for e in reversed(self.events) if e[0] == user][:limit]
        return [{"item": item, "action": action, "time_ms": at} for _, item, action, at in own]

    def some_users(self, limit: int) -> list[str]:
        return list(dict.fromkeys(user for user, *_ in self.events))[:limit]

    def erase(self, user: str) -> EraseResult:
        before = len(self.events)
        self.events = [e for e in self.events if e[0] != user]
        return EraseResult(events=before - len(self.events), items=0, generation=1)

    def record_all_served(self, shown: Sequence[tuple[Request, Answer]]) -> None:
        self.record_fault()
        self.recorded += shown

    def economy(self) -> None:
        return None

    def info(self) -> dict[str, Any]:
        return {"model": "double", "items": self.generation.items.size - 1, "tasks": list(self.spec.tasks)}

    def measures(self) -> dict[str, float]:
        return {"user_states_warm": 3.0, "user_states_cold": 2.0, "user_state_bytes": 1e6, "cost_error_p90": 0.125}

    def warm(self) -> None:
        assert self.warm_gate.wait(30)

    def close(self) -> None:
        self.closed = True

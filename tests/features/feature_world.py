"""A small world with every kind of feature, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from depthrank.catalogue import Catalogue
from depthrank.events import EventBatch, EventLog
from depthrank.features import Counters, Encoded, EncodedHistory, FeatureEncoder, FitSample, HistoryCodes
from depthrank.schema import Spec

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
ACTIONS = ("impression", "click", "like")
ITEMS = ("a", "b", "c", "d", "e", "f")
USERS = ("u1", "u2", "u3")

FEATURES: dict[str, Any] = {
    "item": {"kind": "categorical", "source": "item.id"},
    "genre": {"kind": "multi_hot", "source": "item.genre", "max_values": 2},
    "tags": {"kind": "multi_hot", "source": "item.tags", "separator": "|", "max_values": 3},
    "title": {"kind": "text", "source": "item.title", "buckets": 64, "max_values": 3},
    "author": {"kind": "categorical", "source": "item.author"},
    "price": {"kind": "numeric", "source": "item.price"},
    "picture": {"kind": "vector", "source": "item.picture", "size": 2},
    "uploaded": {"kind": "time", "source": "item.uploaded", "parts": ["hour", "age"], "unit": "s"},
    "user": {"kind": "categorical", "source": "user.id"},
    "gender": {"kind": "categorical", "source": "user.gender"},
    "signup": {"kind": "time", "source": "user.signup", "parts": ["weekday", "age"], "unit": "iso"},
    "device": {"kind": "categorical", "source": "context.device"},
    "interests": {"kind": "multi_hot", "source": "context.interests", "max_values": 2},
    "search": {"kind": "text", "source": "context.search", "buckets": 32, "max_values": 2},
    "distance": {"kind": "numeric", "source": "context.distance", "transform": "log"},
    "spot": {"kind": "vector", "source": "context.spot", "size": 2},
    "since": {"kind": "time", "source": "context.since", "parts": ["age"], "unit": "iso"},
    "now": {"kind": "time", "utc_offset_h": 2.0},
    "offer": {"kind": "numeric", "source": "candidate.offer", "transform": "standard", "within": "request"},
    "bid": {"kind": "numeric", "source": "candidate.bid", "within": "request"},
    "badge": {"kind": "categorical", "source": "candidate.badge"},
    "position": {"kind": "position", "max_position": 8},
}
COUNTERS: dict[str, Any] = {
    f"count_{of}": {
        "kind": "counter",
        "of": of,
        "actions": ["click", "like"],
        "per": ["impression"],
        "windows": ["2h", "6h"],
        "bucket": "1h",
        "prior": 2.0,
    }
    for of in ("user", "item", "item.author", "user.gender", "user*item", "user*item.author", "item*user.gender")
}


def make_spec(features: dict[str, Any] | None = None, **changes: Any) -> Spec:
    plain = {
        "name": "world",
        "dataset": {
            "items": {"path": "items.csv", "id": "item"},
            "users": {"path": "users.csv", "id": "user"},
            "impressions": {
                "path": "log.csv",
                "user": "user",
                "item": "item",
                "time": {"column": "t", "unit": "ms"},
                "request": {"gap": "30m"},
                "context": ["device", "interests", "search", "distance", "spot", "since"],
                "candidate": ["offer", "bid", "badge"],
            },
        },
        "tasks": {"click": {"column": "is_click"}, "like": {"column": "is_like"}},
        "value": {"weights": {"click": 1.0}},
        "features": {**FEATURES, **COUNTERS} if features is None else features,
        "history": {"actions": ["click", "like"], "length": 5},
    }
    return Spec.from_plain({**plain, **changes})


def make_items() -> Catalogue:
    return Catalogue.build(
        "item",
        ITEMS,
        {
            "genre": [["x", "y", "z"], ["x"], [], None, ["y"], ["z", "w"]],
            "tags": ["p|q", "p", None, "q | r|s|t", "", "r"],
            "title": ["The Red Fox", "red", None, "a b c d e", "", "Fox"],
            "author": [7, 7, None, 8, 9, 9],
            "price": [1.0, 2.5, float("nan"), -3.0, 1e300, float("inf")],
            "picture": [[0.1, 0.2], None, [1.0, 2.0], [0.5, 0.5], [3.0, 1e30], [0.0, 0.0]],
            "uploaded": [1_600_000_000, 1_699_000_000, None, 0, -5, 1_800_000_000],
        },
    )


def make_users() -> Catalogue:
    return Catalogue.build(
        "user",
        USERS,
        {"gender": ["f", None, "m"], "signup": ["2020-01-02", "2023-05-06T07:08:09Z", "nonsense"]},
    )


def make_sample() -> FitSample:
    return FitSample(
        contexts={
            "device": ["ios", "web", None, "ios"],
            "interests": [["x", "y"], None, [], ["y"]],
            "search": ["red fox", "", None, "blue"],
            "distance": [1.0, 2, None, float("nan")],
            "spot": [[0.1, 0.2], None, [1.0, 2.0], [0.0, 0.0]],
            "since": ["2023-01-01", None, "2023-02-01", None],
        },
        candidates={
            "offer": np.array([1.0, 2.0, 3.0, np.nan]),
            "bid": np.array([0.5, 0.1, 0.1, 0.9]),
            "badge": np.array(["new", "sale", "new", "new"]),
        },
        item_rows=np.array([1, 1, 2, 3, 4, 5, 5]),
        user_rows=np.array([1, 1, 3]),
    )


@dataclass(frozen=True)
class World:
    spec: Spec
    items: Catalogue
    users: Catalogue
    encoder: FeatureEncoder

    @classmethod
    def make(cls, features: dict[str, Any] | None = None) -> World:
        spec, items, users = make_spec(features), make_items(), make_users()
        return cls(spec, items, users, FeatureEncoder.fit(spec, items, users, make_sample()))

    def counters(self, log: Any) -> Counters:
        return Counters.rebuild(self.spec, log, self.items, self.users)

    def requests(self, r: Requests, counters: Counters) -> Encoded:
        rows = self.users.row_of(list(r.users))
        return self.encoder.encode_requests(r.users, rows, r.contexts, r.time_ms, self.users, counters)

    def candidates(self, r: Requests, counters: Counters) -> Encoded:
        rows = self.items.row_of(list(r.candidates))
        return self.encoder.encode_candidates(
            rows, r.request_of_candidate, r.users, r.time_ms, r.columns, counters, self.items, r.positions
        )

    def history(self, r: Requests, log: EventLog, codes: HistoryCodes) -> EncodedHistory:
        batch = log.histories(r.users, r.time_ms, self.spec.history.length * 2, self.spec.history_actions)
        return self.encoder.encode_history(batch, codes, r.time_ms)

    def codes(self, log: EventLog) -> HistoryCodes:
        return HistoryCodes(log, self.items, self.spec.history_actions)


@dataclass(frozen=True)
class Requests:
    """R requests with their candidates, flat."""

    users: list[str]
    time_ms: np.ndarray
    contexts: dict[str, list[Any]]
    candidates: list[str]
    request_of_candidate: np.ndarray
    columns: dict[str, list[Any]]
    positions: np.ndarray | None = None

    def one(self, r: int) -> Requests:
        """The r-th request alone."""
        rows = np.flatnonzero(self.request_of_candidate == r)
        return Requests(
            [self.users[r]],
            self.time_ms[r : r + 1],
            {name: [values[r]] for name, values in self.contexts.items()},
            [self.candidates[i] for i in rows],
            np.zeros(len(rows), np.int64),
            {name: [values[i] for i in rows] for name, values in self.columns.items()},
            None if self.positions is None else self.positions[rows],
        )


def event_batch(events: Sequence[tuple[str, str, str, int, int]]) -> EventBatch:
    """Events (user, item, action, time, appended) as a batch."""
    user, item, action, time_ms, appended_ms = zip(*events) if events else ((), (), (), (), ())
    return EventBatch(
        user, item, action, time_ms=np.array(time_ms, np.int64), appended_ms=np.array(appended_ms, np.int64)
    )


def assert_same_bits(left: Encoded | EncodedHistory, right: Encoded | EncodedHistory, rows: Any = slice(None)) -> None:
    """All arrays of ``left`` equal ``right[rows]`` bit for bit."""
    for name in vars(left):
        ours, theirs = getattr(left, name), getattr(right, name)[rows]
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
        assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes(), (name, ours, theirs)

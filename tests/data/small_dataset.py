"""Small datasets as files, in every form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from depthrank.schema import Spec

T0 = 1_760_000_000_000
MINUTE = 60_000

BASE: dict[str, Any] = {
    "name": "small",
    "dataset": {
        "items": {"path": "items.parquet", "id": "item_id"},
        "users": {"path": "users.parquet", "id": "user_id"},
        "impressions": {
            "path": "impressions.parquet",
            "user": "user_id",
            "item": "item_id",
            "time": {"column": "time_ms", "unit": "ms"},
            "request": {"gap": "30m"},
            "context": ["device"],
            "candidate": ["price"],
            "position": "place",
        },
    },
    "features": {
        "item": {"kind": "categorical", "source": "item.id"},
        "genre": {"kind": "categorical", "source": "item.genre"},
        "age": {"kind": "numeric", "source": "user.age"},
        "device": {"kind": "categorical", "source": "context.device"},
        "price": {"kind": "numeric", "source": "candidate.price"},
        "place": {"kind": "position"},
    },
    "tasks": {"click": {"column": "is_click"}, "like": {"column": "is_like"}},
    "value": {"weights": {"click": 1.0, "like": 0.5}},
    "history": {"length": 8},
    "split": {"validation": 0.2, "test": 0.2},
}


def items() -> pl.DataFrame:
    return pl.DataFrame({"item_id": [10, 11, 12, 13], "genre": ["a", "b", None, "a"]})


def users() -> pl.DataFrame:
    return pl.DataFrame({"user_id": ["u1", "u2"], "age": [30, None]})


def impressions(num_users: int = 3, visits: int = 8, shown: int = 3) -> pl.DataFrame:
    """``visits`` requests a user, two hours apart, each with ``shown`` impressions a minute apart."""
    rows = [
        {
            "user_id": f"u{u}",
            "item_id": 10 + (u + v + s) % 4,
            "time_ms": T0 + v * 120 * MINUTE + u * 7 * MINUTE + s * MINUTE,
            "device": "ios" if v % 2 else "web",
            "price": 1.5 * s if s else None,
            "place": s,
            "is_click": int((u + v + s) % 3 == 0),
            "is_like": (u + v + s) % 6 == 0,
        }
        for u in range(1, num_users + 1)
        for v in range(visits)
        for s in range(shown)
    ]
    return pl.DataFrame(rows)


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``base`` with nested changes; None removes a key."""
    out = dict(base)
    for key, value in change.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


Make = Callable[..., Spec]


def maker(folder: Path) -> Make:
    """Writes the files into ``folder`` (keyword: a frame each) and gives the spec with nested ``change``s."""

    def make(change: dict[str, Any] | None = None, **frames: pl.DataFrame) -> Spec:
        written = {"items": items(), "users": users(), "impressions": impressions(), **frames}
        for name, frame in written.items():
            frame.write_parquet(folder / f"{name}.parquet")
        return Spec.from_plain(merged(BASE, change or {}), folder=str(folder))

    return make

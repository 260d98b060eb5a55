"""A small planted world, for every test that needs real files to train on.

In it a user likes one genre, known from the history alone, and buys only what is cheap among what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

GENRES = ("drama", "comedy", "western", "noir")
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000

WORLD_SPEC: dict[str, Any] = {
    "name": "world",
    "dataset": {
        "items": {"path": "items.parquet", "id": "item"},
        "users": {"path": "users.parquet", "id": "user"},
        "impressions": {
            "path": "impressions.parquet",
            "user": "user",
            "item": "item",
            "time": {"column": "time_ms", "unit": "ms"},
            "request": {"column": "request"},
            "position": "place",
            "context": ["device"],
            "candidate": ["price"],
        },
    },
    "features": {
        "item": {"kind": "categorical", "source": "item.id"},
        "genre": {"kind": "categorical", "source": "item.genre"},
        "title": {"kind": "text", "source": "item.title", "buckets": 64},
        "age": {"kind": "numeric", "source": "user.age"},
        "device": {"kind": "categorical", "source": "context.device"},
        "price": {"kind": "numeric", "source": "candidate.price", "within": "request"},
        "hour": {"kind": "time"},
        "place": {"kind": "position"},
        "item_clicks": {"kind": "counter", "of": "item", "actions": ["click"], "per": ["impression"]},
        "user_clicks": {"kind": "counter", "of": "user", "actions": ["click"]},
    },
    "tasks": {"click": {"column": "is_click"}, "buy": {"column": "is_buy"}},
    "value": {"weights": {"click": 1.0, "buy": 4.0}},
    "history": {"length": 12},
    "split": {"validation": 0.15, "test": 0.15},
    "model": {"preset": "demo", "width": 32, "dropout": 0.0},
    "training": {"epochs": 6, "batch_requests": 64, "batch_candidates": 1024, "learning_rate": 5e-3},
}


@dataclass(frozen=True)
class World:
    """Where the planted world's files, its log and its trained artifact lie."""

    folder: Path
    spec: Path
    artifact: Path
    log_url: str


def write_world(folder: Path, *, num_users: int = 60, visits: int = 14, shown: int = 6, seed: int = 0) -> Path:
    """Write the files and ``ranking.yaml``; returns its path."""
    rng = np.random.default_rng(seed)
    num_items = 80
    genre = rng.integers(0, len(GENRES), num_items)
    items = pl.DataFrame(
        {
            "item": [f"i{i}" for i in range(num_items)],
            "genre": [GENRES[g] for g in genre],
            "title": [f"{GENRES[g]} number {i}" for i, g in enumerate(genre)],
        }
    )
    users = pl.DataFrame({"user": [f"u{u}" for u in range(num_users)], "age": rng.integers(18, 80, num_users)})
    taste = rng.integers(0, len(GENRES), num_users)
    rows: list[dict[str, Any]] = []
    for visit in range(visits):
        for user in range(num_users):
            at = START_MS + (visit * num_users + user) * HOUR_MS // 4
            chosen = rng.choice(num_items, shown, replace=False)
            price = np.round(rng.uniform(1, 9, shown), 2)
            device = "ios" if rng.random() < 0.5 else "web"
            for place, item in enumerate(chosen):
                likes = genre[item] == taste[user]
                click = rng.random() < (0.8 if likes else 0.08) * (0.9**place)
                buy = click and rng.random() < (0.9 if price[place] <= np.median(price) else 0.05)
                rows.append(
                    {
                        "request": visit * num_users + user,
                        "user": f"u{user}",
                        "item": f"i{item}",
                        "time_ms": at,
                        "place": place,
                        "device": device,
                        "price": float(price[place]),
                        "is_click": int(click),
                        "is_buy": int(buy),
                    }
                )
    folder.mkdir(parents=True, exist_ok=True)
    items.write_parquet(folder / "items.parquet")
    users.write_parquet(folder / "users.parquet")
    pl.DataFrame(rows).write_parquet(folder / "impressions.parquet")
    path = folder / "ranking.yaml"
    path.write_text(yaml.safe_dump(WORLD_SPEC, sort_keys=False))
    return path


def write_tiny_world(folder: Path, **training: object) -> Path:
    """A world of a few visits and a spec with dropout, so that the random state matters; path of the spec."""
    spec = write_world(folder, num_users=12, visits=8)
    changed = {**WORLD_SPEC, "model": {"preset": "demo", "width": 16, "heads": 2, "dropout": 0.2}}
    changed["training"] = {**WORLD_SPEC["training"], "epochs": 3, "batch_requests": 16, **training}
    spec.write_text(yaml.safe_dump(changed, sort_keys=False))
    return spec

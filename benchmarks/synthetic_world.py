"""A made-up marketplace for benchmarks: the load is real, the tastes are not.

20,000 items with 6 features, users with 4, a context of 2, 2 columns sent with every candidate, and 4 counters. The
users that a benchmark asks for have exactly ``HISTORY`` events behind them; others have the requests that a short
training needs, so that all weights, vocabularies and counters have the sizes and the formats they would have.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

NUM_ITEMS = 20_000
NUM_AUTHORS = 2_000
NUM_CATEGORIES = 60
HISTORY = 200
CANDIDATES = 2_000
ASKED = [f"asked-{i}" for i in range(64)]
TRAINED = [f"trained-{i}" for i in range(128)]
SHOWN = 24
DAY_MS = 86_400_000
DEVICES = ("ios", "android", "web", "tv")
WORDS = tuple(f"word{i}" for i in range(800))

SPEC = """\
name: synthetic

dataset:
  items: {path: items.parquet, id: item}
  users: {path: users.parquet, id: user}
  requests:
    path: requests.parquet
    user: user
    time: {column: time_ms, unit: ms}
    candidates: items
    candidate: {bid: bids, discount: discounts}
    context: [device, distance]
  more_events:
    - {path: events.parquet, user: user, item: item, time: {column: time_ms, unit: ms}, action: {column: action}}

features:
  user: {kind: categorical, source: user.id}
  age: {kind: numeric, source: user.age}
  country: {kind: categorical, source: user.country}
  plan: {kind: categorical, source: user.plan}
  device: {kind: categorical, source: context.device}
  distance: {kind: numeric, source: context.distance}
  item: {kind: categorical, source: item.id}
  author: {kind: categorical, source: item.author}
  category: {kind: categorical, source: item.category}
  tags: {kind: multi_hot, source: item.tags, max_values: 4}
  title: {kind: text, source: item.title, buckets: 4096, max_values: 6}
  price: {kind: numeric, source: item.price}
  bid: {kind: numeric, source: candidate.bid, within: request}
  discount: {kind: numeric, source: candidate.discount}
  item_clicks: {kind: counter, of: item, actions: [click], per: [impression], windows: [1d, 28d]}
  author_clicks: {kind: counter, of: item.author, actions: [click], per: [impression], windows: [1d, 28d]}
  user_clicks: {kind: counter, of: user, actions: [click], windows: [1d, 28d]}
  user_category: {kind: counter, of: "user*item.category", actions: [click, buy], windows: [28d]}

tasks:
  click: {column: clicks}
  buy: {column: buys}

value: {weights: {click: 1.0, buy: 10.0}, times: bid}

history: {actions: [click, buy], length: %(history)d}

model: {preset: %(preset)s}

training: {epochs: 1, batch_requests: 32, batch_candidates: 2048}
"""


def write_world(folder: Path, preset: str, seed: int = 0) -> Path:
    """Write the data and its spec; returns the path of the spec. Times end now, so that counters count something."""
    rng = np.random.default_rng(seed)
    now_ms = time.time_ns() // 1_000_000
    folder.mkdir(parents=True, exist_ok=True)
    _items(rng).write_parquet(folder / "items.parquet")
    _users(rng).write_parquet(folder / "users.parquet")
    _events(rng, now_ms).write_parquet(folder / "events.parquet")
    _requests(rng, now_ms).write_parquet(folder / "requests.parquet")
    spec = folder / "ranking.yaml"
    spec.write_text(SPEC % {"history": HISTORY, "preset": preset}, encoding="utf-8")
    return spec


def request_bodies(top: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """One request for each user that may be asked for, with candidates of its own."""
    rng = np.random.default_rng(seed)
    for user in ASKED:
        items = rng.choice(NUM_ITEMS, CANDIDATES, replace=False)
        yield {
            "user": user,
            "context": {"device": str(rng.choice(DEVICES)), "distance": round(float(rng.exponential(5)), 2)},
            "candidates": {
                "item": [f"item-{i}" for i in items.tolist()],
                "bid": rng.gamma(2.0, 0.5, CANDIDATES).round(3).tolist(),
                "discount": rng.uniform(0, 0.6, CANDIDATES).round(2).tolist(),
            },
            "top": top,
        }


def _items(rng: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item": [f"item-{i}" for i in range(NUM_ITEMS)],
            "author": [f"author-{a}" for a in rng.zipf(1.3, NUM_ITEMS) % NUM_AUTHORS],
            "category": [f"category-{c}" for c in rng.integers(0, NUM_CATEGORIES, NUM_ITEMS)],
            "tags": [[f"tag-{t}" for t in rng.integers(0, 300, rng.integers(0, 5))] for _ in range(NUM_ITEMS)],
            "title": [" ".join(rng.choice(WORDS, 5)) for _ in range(NUM_ITEMS)],
            "price": rng.lognormal(3, 1, NUM_ITEMS).round(2),
        }
    )


def _users(rng: np.random.Generator) -> pl.DataFrame:
    users = [*ASKED, *TRAINED]
    return pl.DataFrame(
        {
            "user": users,
            "age": rng.integers(16, 90, len(users)),
            "country": [f"country-{c}" for c in rng.integers(0, 40, len(users))],
            "plan": [f"plan-{p}" for p in rng.integers(0, 3, len(users))],
        }
    )


def _events(rng: np.random.Generator, now_ms: int) -> pl.DataFrame:
    """``HISTORY`` events a user, all before the requests begin, each at a time of its own."""
    users = [user for user in [*ASKED, *TRAINED] for _ in range(HISTORY)]
    times = [now_ms - 30 * DAY_MS + rng.choice(28 * DAY_MS, HISTORY, replace=False) for _ in [*ASKED, *TRAINED]]
    n = len(users)
    return pl.DataFrame(
        {
            "user": users,
            "item": [f"item-{i}" for i in rng.zipf(1.2, n) % NUM_ITEMS],
            "action": np.where(rng.random(n) < 0.1, "buy", "click"),
            "time_ms": np.concatenate(times),
        }
    ).sort("time_ms")


def _requests(rng: np.random.Generator, now_ms: int) -> pl.DataFrame:
    """Two requests a trained user in the last two days, with labels by chance."""
    users = TRAINED * 2
    n = len(users)
    shown = [rng.choice(NUM_ITEMS, SHOWN, replace=False) for _ in users]
    clicks = [rng.random(SHOWN) < 0.2 for _ in users]
    return pl.DataFrame(
        {
            "user": users,
            "time_ms": np.sort(now_ms - 2 * DAY_MS + rng.integers(0, 2 * DAY_MS - 3_600_000, n)),
            "items": [[f"item-{i}" for i in row.tolist()] for row in shown],
            "bids": [rng.gamma(2.0, 0.5, SHOWN).round(3).tolist() for _ in users],
            "discounts": [rng.uniform(0, 0.6, SHOWN).round(2).tolist() for _ in users],
            "device": rng.choice(DEVICES, n),
            "distance": rng.exponential(5, n).round(2),
            "clicks": [row.astype(int).tolist() for row in clicks],
            "buys": [(row & (rng.random(SHOWN) < 0.2)).astype(int).tolist() for row in clicks],
        }
    )

"""Makes an archive that test_old_data.py reads: an artifact, an event log, its backup, and what they answer.

    python tests/old_data/make.py tests/old_data/FORMATS.tar.gz

Run it with the code of a release, before a format changes; archives made earlier stay, since their data is out there.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import plotly.offline
import polars as pl
import torch

from depthrank.engine import Ranker
from depthrank.events import EventLog, open_log
from depthrank.schema import Request, Spec

NUM_USERS, NUM_ITEMS, EVENTS_A_USER = 60, 120, 14
ASKED_MS = 1_700_100_000_000
GENRES = ("drama", "war", "comedy")
SPEC = """
name: old data
dataset:
  items: {path: items.parquet, id: item}
  users: {path: users.parquet, id: user}
  events:
    path: events.parquet
    user: user
    item: item
    time: {column: time_ms, unit: ms}
    action: {column: action}
    negatives: {per_positive: 6, sampler: uniform}
features:
  user_id: {kind: categorical, source: user.id}
  age: {kind: numeric, source: user.age}
  item_id: {kind: categorical, source: item.id}
  title: {kind: text, source: item.title, buckets: 64}
  genres: {kind: multi_hot, source: item.genres}
  clock: {kind: time}
  popularity: {kind: counter, of: item, actions: [like], per: [click], windows: [30d], bucket: 1d}
tasks: {click: {}, like: {}}
value: {weights: {click: 1, like: 2}}
history: {actions: [click, like], length: 8}
split: {by: leave_last_out}
evaluation: {candidates: all}
model: {preset: demo, width: 8, heads: 1, encoder_layers: 1, expert_layers: 1}
training: {epochs: 1, batch_requests: 64}
"""


def write_dataset(folder: Path) -> None:
    rng = np.random.default_rng(7)
    items = [f"i{k}" for k in range(NUM_ITEMS)]
    genres = [[GENRES[k % 3]] for k in range(NUM_ITEMS)]
    titles = [f"A film {k}" if k % 7 else None for k in range(NUM_ITEMS)]
    pl.DataFrame({"item": items, "title": titles, "genres": genres}).write_parquet(folder / "items.parquet")
    users = [f"u{k}" for k in range(NUM_USERS)]
    pl.DataFrame({"user": users, "age": [20.0 + k for k in range(NUM_USERS)]}).write_parquet(folder / "users.parquet")
    rows = [
        (user, items[int(item)], action, 1_700_000_000_000 + 60_000 * n + 1_000 * k)
        for k, user in enumerate(users)
        for n, item in enumerate(rng.choice(NUM_ITEMS, EVENTS_A_USER, replace=False))
        for action in ("click", "like")[: 1 + (int(item) % 3 == k % 3)]
    ]
    pl.DataFrame(rows, ["user", "item", "action", "time_ms"], orient="row").write_parquet(folder / "events.parquet")
    (folder / "ranking.yaml").write_text(SPEC)


def expected(artifact: Path, log: EventLog) -> dict[str, object]:
    """Full-depth answers and histories; the log's counts."""
    ranker = Ranker.load(artifact, log=log)
    answers = {}
    for user in ("u0", "u7", "nobody"):
        request = Request(user=user, candidates="all", top=40, time_ms=ASKED_MS, mode="full")
        answers[user] = [[item.item, item.value, item.level] for item in ranker.rank(request).items]
    histories = {user: ranker.history(user, 5) for user in ("u0", "u7")}
    stats = log.stats()
    return {"answers": answers, "histories": histories, "events": stats.events, "users": stats.users}


def main(archive: Path) -> None:
    torch.set_num_threads(1)
    plotly.offline.get_plotlyjs = lambda: "/* left out: megabytes that no test reads */"
    from depthrank.training import train  # the report takes plotly.js at its import

    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        write_dataset(root)
        train(Spec.load(root / "ranking.yaml"), log=f"lmdb:{root / 'events'}", out=root / "artifact", seed=1)
        with open_log(f"lmdb:{root / 'events'}") as log:
            log.backup(root / "backup")
            (root / "expected.json").write_text(json.dumps(expected(root / "artifact", log), indent=1))
        with tarfile.open(archive, "w:gz") as packed:
            for name in ("artifact", "events", "backup", "expected.json", "ranking.yaml"):
                packed.add(root / name, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

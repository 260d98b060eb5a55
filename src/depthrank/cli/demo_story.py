"""What the demo shows: a ranking, an event, and what it moved."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from depthrank.cli.terminal import say, table
from depthrank.engine import Ranker
from depthrank.errors import DepthrankError
from depthrank.schema import Request

PERSON = "1"
WATCHED = ("click", "like")
TOP = 10  # of the first table
ROWS = 15  # of the last table
SHOWN = 50  # what the page of a shop would show
EVENTS_READ = 10_000
Answer = dict[str, Any]


class ServedOtherwise(DepthrankError):
    """The server and the library disagree."""


@dataclass(frozen=True)
class Films:
    """Titles and genres by item id, and what the person has rated in the source data."""

    title: dict[str, str]
    genres: dict[str, list[str]]
    rated: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> Films:
        items = pl.read_parquet(folder / "items.parquet")
        events = pl.read_parquet(folder / "events.parquet").filter(pl.col("user") == PERSON)
        ids = items["item"].to_list()
        titles = [f"{t} ({y})" if y else t for t, y in zip(items["title"], items["year"], strict=True)]
        return cls(
            title=dict(zip(ids, titles, strict=True)),
            genres=dict(zip(ids, items["genres"].to_list(), strict=True)),
            rated=frozenset(events["item"].to_list()),
        )

    def unseen(self, seen: frozenset[str] = frozenset()) -> list[str]:
        """The films that the person neither rated nor saw since."""
        return [item for item in self.title if item not in self.rated and item not in seen]


def rank_in_process(artifact: Path, log: str, films: Films) -> list[str]:
    """Rank the unseen films without a server, and show the ten best; returns all candidates, best first."""
    ranker = Ranker.load(artifact, log=log)
    try:
        ranker.warm()
        past = ranker.history(PERSON, EVENTS_READ)
        candidates = films.unseen(frozenset(row["item"] for row in past if row["action"] in WATCHED))
        started = time.perf_counter()
        everything = len(candidates)
        answer = ranker.rank(Request(user=PERSON, candidates=list(candidates), top=everything, mode="full"))
        took_ms = (time.perf_counter() - started) * 1000
    finally:
        ranker.close()
    say(f"3. {len(candidates):,} unseen films ranked for person {PERSON} in {took_ms:.1f} ms (in process)")
    rows = [
        [i + 1, films.title[item.item], ", ".join(films.genres[item.item]), f"{item.value:.4f}", item.level]
        for i, item in enumerate(answer.items[:TOP])
    ]
    table(f"For person {PERSON}", ["#", "film", "genres", "value", "level"], rows, right=("#", "value", "level"))
    return [item.item for item in answer.items]


def tell(address: str, films: Films, candidates: list[str]) -> None:
    """Rank over HTTP, post an event, rank again, and show what moved. ``candidates``: as the library ranked them."""
    with httpx.Client(base_url=address, timeout=30) as http:
        before = _rank(http, candidates)
        order = [row["item"] for row in before["items"]]
        if order != candidates[: len(order)]:
            raise ServedOtherwise("the server ranks otherwise than the library; this is a bug, please report it")
        say(f"5. the same request over HTTP, in the same order; timings: {_timings(before)}")
        liked = _choose(candidates, films)
        _post_like(http, liked)
        say(f"6. posted to the running server: person {PERSON} watched and liked {films.title[liked]!r}")
        after = _rank(http, [item for item in candidates if item != liked], explain=True)
    _show_moves(before, after, liked, films)


def _rank(http: httpx.Client, candidates: list[str], explain: bool = False) -> Answer:
    """The answer over HTTP; what it returns is logged as shown, so it asks for a screenful."""
    top = min(SHOWN, len(candidates))
    body = {"user": PERSON, "candidates": candidates, "top": top, "explain": explain, "mode": "full"}
    response = http.post("/v1/rank", json=body)
    response.raise_for_status()
    answer: Answer = response.json()
    return answer


def _timings(answer: Answer) -> str:
    return ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in answer["timings_ms"].items())


def _choose(order: list[str], films: Films) -> str:
    """The best ranked film of a genre that the ten best have least of: liking it says something new."""
    shown = [genre for item in order[:TOP] for genre in films.genres[item]]
    wanted = min(("Horror", "Sci-Fi", "Animation", "Musical", "Western", "Film-Noir"), key=shown.count)
    return next(item for item in order[TOP:] if wanted in films.genres[item])


def _post_like(http: httpx.Client, item: str) -> None:
    events = {
        "user": [PERSON] * 2,
        "item": [item] * 2,
        "action": list(WATCHED),
        "event_id": [f"demo-{uuid.uuid4()}" for _ in range(2)],
    }
    http.post("/v1/events", json=events).raise_for_status()


def _show_moves(before: Answer, after: Answer, liked: str, films: Films) -> None:
    """The best films now: where they were, how their value changed, and which events of the history it rests on."""
    order = [row["item"] for row in before["items"] if row["item"] != liked]  # as if the liked one had never been there
    place_before = {item: i for i, item in enumerate(order, 1)}
    value_before = {row["item"]: row["value"] for row in before["items"]}
    because = {row["item"]: row["because"] for row in after["explain"]["items"]}
    rows = []
    for place, row in enumerate(after["items"][:ROWS], 1):
        item, value = row["item"], row["value"]
        was = place_before.get(item)
        moved = "new" if was is None else f"{was - place:+d}" if was != place else "="
        change = "" if was is None else f"{value / value_before[item] - 1:+.1%}"
        reasons = [f"{films.title[b['item']]} {b['adds'] / value:.1%}" for b in because.get(item, [])]
        rows.append([place, films.title[item], was or f"> {SHOWN}", moved, change, "; ".join(reasons)])
    columns = ["now", "film", "was", "moved", "value", "owes most to"]
    table(f"After liking {films.title[liked]}", columns, rows, right=("now", "was", "moved", "value"))
    kept = sum(place_before.get(row["item"]) == i for i, row in enumerate(after["items"], 1))
    say(f"   {len(after['items']) - kept} of the first {len(after['items'])} places changed: only the history grew.")
    say("   'Owes most to': that share of the film's value is gone when that event is taken out of the history.")

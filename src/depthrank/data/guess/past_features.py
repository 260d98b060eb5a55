"""Features of what happened before: counters over windows that fit the data's span, and the user's own history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthrank.data.guess.main_file import Main

REPEATS = 0.02  # of the rows: users come back to items
MOST_ATTRIBUTES = 3
# Data of less than so many days: the windows and the bucket of a counter.
_WINDOWS = ((2, "6h", "1d", "10m"), (10, "1d", "3d", "1h"), (45, "1d", "7d", "1h"), (200, "7d", "30d", "1d"))
_LONG = ("30d", "180d", "1d")


@dataclass(frozen=True)
class Line:
    """A feature's YAML without braces, and what to say of it."""

    body: str
    why: str = ""


def past_features(main: Main, attributes: Sequence[str], repeated: float, span: float | None) -> dict[str, Line]:
    """Feature by name. ``attributes``: columns of items that many share; ``repeated``: the share of the rows whose user
    had the item before; ``span``: days, None without times (then nothing is counted)."""
    of = [a for a in attributes if a.isidentifier() and a.isascii()][:MOST_ATTRIBUTES]
    found: dict[str, Line] = {}
    if main.form != "events" and span is not None:
        found |= _counters(main, of, span)
    if main.anonymous:
        return found
    found["past"] = Line("kind: history_count")
    if main.item is not None and (repeated > REPEATS or main.form == "requests"):
        found["again"] = Line("kind: history_match, of: item")
    if main.form != "events":
        found |= {f"again_{a}": Line(f"kind: history_match, of: item.{a}") for a in of}
    return found


def _counters(main: Main, attributes: Sequence[str], span: float) -> dict[str, Line]:
    short, long, bucket = next((windows for days, *windows in _WINDOWS if span < days), _LONG)
    rate = f"actions: [{', '.join(main.tasks)}], per: [impression]"
    windows = f"windows: [{short}, {long}], bucket: {bucket}"
    found = {} if main.item is None else {"item_rate": Line(f"kind: counter, of: item, {rate}, {windows}")}
    found |= {f"{a}_rate": Line(f"kind: counter, of: item.{a}, {rate}, {windows}") for a in attributes}
    if not main.anonymous:
        daily = f"windows: [{long}], bucket: 1d, prior: 5"
        why = "by the day: a fresher rate would tell what the request itself led to"
        found["user_rate"] = Line(f"kind: counter, of: user, {rate}, {daily}", why)
        for a in attributes[:1]:
            found[f"user_{a}_rate"] = Line(f'kind: counter, of: "user*item.{a}", {rate}, {daily}')
    return found

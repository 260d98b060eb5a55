"""Which file training examples come from, in which of the three forms, and what its columns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from depthrank.data.guess.names import words
from depthrank.data.guess.outcomes import Label, labels_of
from depthrank.data.guess.roles import (
    ACTION,
    ITEM,
    LABEL,
    POSITION,
    REQUEST,
    SHOWN,
    USER,
    id_of,
    id_words_only,
    named,
)
from depthrank.data.guess.tables import Column, Table
from depthrank.data.lists import as_lists
from depthrank.data.times import times_ms
from depthrank.errors import DataError, did_you_mean
from depthrank.schema.dataset import TimeColumn

FEW_ACTIONS = 40
OF_SHOWN = 0.5  # of the ids of a label are among those shown
SESSION_MS, DAY_MS = 30 * 60_000, 86_400_000


@dataclass(frozen=True)
class Named:
    """Columns that the person names, since they know better; None: guess."""

    main: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None


@dataclass(frozen=True, eq=False)
class Main:
    """The main file. ``form``: requests, impressions or events. ``item`` is the list of candidates of ``requests``;
    ``user`` may be the request's id, where nobody is signed in, or None, where rows have no id at all; ``item`` None:
    candidates are nothing but their columns. ``time`` None: the order of the rows."""

    table: Table
    form: str
    user: str | None
    item: str | None
    time: str | None
    request: str | None
    action: str | None
    position: str | None
    labels: tuple[Label, ...]
    anonymous: bool
    separator: str | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of what is predicted: the labels, the actions of events, or what every event of the file is."""
        if self.form != "events":
            return [label.task for label in self.labels]
        if self.action is not None:
            values = self.table.columns[self.action].known.value_counts(sort=True)
            return [str(value) for value in values[self.action].to_list()]
        of_file = [word for word in words(self.table.name.split(".")[0]) if word not in _NO_ACTIONS]
        return [of_file[-1].removesuffix("s") if of_file else "event"]

    @property
    def taken(self) -> list[str]:
        """Columns that have a part already."""
        parts = (self.user, self.item, self.time, self.request, self.action, self.position)
        return [part for part in parts if part is not None]


_NO_ACTIONS = ("log", "logs", "data", "events", "event", "train", "sample")
_RANK = {"requests": 0, "impressions": 1, "events": 2}


def find_main(tables: Sequence[Table], given: Named) -> Main:
    """The file to learn from: lists that were shown before single impressions before positives. Raises DataError."""
    chosen = [table for table in tables if given.main in (None, table.name)]
    if not chosen:
        names = [table.name for table in tables]
        near = did_you_mean(given.main or "", names)
        raise DataError(
            f"there is no {given.main}: the files are {', '.join(names)}"
            + (f"; did you mean {near!r}?" if near else "")
        )
    found = [main for main in (_as_main(table, given) for table in chosen) if main is not None]
    if not found:
        listed = "; ".join(f"{table.name}: {', '.join(table.columns)}" for table in chosen)
        raise DataError(
            "no file has a label (0/1, or a grade), nor columns that are named like an item's id and a user's "
            f"(or request's): {listed}. Say which: --item COLUMN --user COLUMN"
        )
    return min(found, key=lambda main: (main.item is None, _RANK[main.form], -main.table.num_rows))


def _as_main(table: Table, given: Named) -> Main | None:
    """What the file is if it is the main one; None where it cannot be."""
    lists = [column for column in table if _is_list_of_items(column)]
    request = id_of(table, REQUEST)
    user = given.user or id_of(table, USER)
    anonymous = user is None
    ids = [column for column in table if column.name not in (user, request)]
    item = given.item or (lists[0].name if lists else id_of(ids, ITEM))
    if user is None:
        user = request or next((c.name for c in ids if c.is_id_like and named(c, "id") and table.is_key(c.name)), None)
    if given.user not in (None, *table.columns) or given.item not in (None, *table.columns) or (item and user == item):
        return None
    listed = item in [column.name for column in lists]
    keys = [name for name in (item, None if anonymous else user) if name is not None and table.is_key(name)]
    if not listed and given.main is None and keys:
        return None  # one row an item, or a user
    parts = [name for name in (user, item) if name is not None]
    time = given.time or _time_of(table, parts)
    rest = [*parts, *([time] if time is not None else [])]
    action = _action_of(table, rest)
    if listed:
        assert item is not None
        return _as_lists_shown(table, user, item, time, request, anonymous, rest)
    labels = labels_of(table, [*rest, *([action] if action else [])])
    shown = bool(labels) and (action is None or len(labels) > 1 or item is None)
    if not shown and (user is None or item is None):
        return None  # no label, and nobody who did anything
    position = next((c.name for c in table if named(c, POSITION) and c.is_whole and c.num_distinct <= 1_000), None)
    form, action = ("impressions", None) if shown else ("events", action)
    return Main(table, form, user, item, time, request, action, position, tuple(labels), anonymous)


def _as_lists_shown(
    table: Table,
    user: str | None,
    item: str,
    time: str | None,
    request: str | None,
    anonymous: bool,
    taken: Sequence[str],
) -> Main | None:
    """A file whose items are lists; None where no column tells which of them were taken."""
    candidates = table.columns[item]
    separator = None if candidates.is_listed else _list_separator(candidates)
    labels = []
    for column in table:
        if column.name in taken or column.values is None or not named(column, f"{LABEL} {ITEM}"):
            continue
        parts = as_lists(column.values, separator).list.explode().drop_nulls()
        flags = set(parts.unique().head(3).to_list()) <= {0, 1} and column.is_listed
        shown = as_lists(candidates.known, separator).list.explode().cast(pl.String)
        share_shown = float(parts.cast(pl.String).is_in(shown.implode()).cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]
        if flags or share_shown >= OF_SHOWN:
            task = "_".join(word for word in words(column.name) if word in LABEL.split()) or "click"
            labels.append(Label(task, column.name, None, None, not flags))
    labels = [label for label in labels if label.task != "click"] or labels[:1]  # by its name before by its ids
    if not labels or user is None:
        return None
    request = request if request is not None and table.is_key(request) else None
    return Main(table, "requests", user, item, time, request, None, None, tuple(labels), anonymous, separator)


def _is_list_of_items(column: Column) -> bool:
    if column.is_listed:
        return named(column, SHOWN) or id_words_only(column, ITEM)
    return named(column, SHOWN) and _list_separator(column) is not None


def _list_separator(column: Column) -> str | None:
    """What most of the column's texts are split by."""
    if not column.is_text:
        return None
    held = ((s, int(column.known.str.contains(s, literal=True).sum())) for s in "|;,")
    return next((separator for separator, rows in held if 2 * rows > len(column.known)), None)


def _time_of(table: Table, taken: Sequence[str]) -> str | None:
    """The time column with the most distinct values: a date beside a time is the coarser one."""
    times = [column for column in table if column.time_unit is not None and column.name not in taken]
    return max(times, key=lambda column: column.num_distinct).name if times else None


def _action_of(table: Table, taken: Sequence[str]) -> str | None:
    found = [c for c in table if c.is_text and named(c, ACTION) and 2 <= c.num_distinct <= FEW_ACTIONS]
    return next((column.name for column in found if column.name not in taken), None)


def groups(main: Main) -> np.ndarray | None:
    """The request number of each sampled row of impressions, by its id or the user's pauses; None without a time."""
    sample = {name: main.table.columns[name].values for name in (main.user, main.request, main.time) if name}
    if main.form != "impressions":
        return None
    key = sample.get(main.request or "")
    if key is not None and not main.table.is_key(main.request or ""):
        return key.rank("dense").fill_null(0).to_numpy()
    users, times = sample.get(main.user or ""), sample.get(main.time or "")
    if users is None or times is None:
        return None
    time, user = _milliseconds(main, times), users.rank("dense").fill_null(0).to_numpy()
    order = np.lexsort((time, user))
    new = (np.diff(user[order], prepend=-1) != 0) | (np.diff(time[order], prepend=time[order[:1]]) > SESSION_MS)
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new)
    return group


def span_days(main: Main) -> float | None:
    """How many days the whole file spans; None without times."""
    if main.time is None or main.table.columns[main.time].time_unit is None:
        return None
    known = _milliseconds(main, main.table.whole(main.time)[main.time])
    known = known[known > 0]
    return float(known.max() - known.min()) / DAY_MS if len(known) else None


def _milliseconds(main: Main, values: pl.Series) -> np.ndarray:
    """Times of the main file; 0 where one cannot be read."""
    unit = main.table.columns[main.time or ""].time_unit
    assert main.time is not None and unit is not None
    return times_ms(values, TimeColumn(column=main.time, unit=unit), "", []).to_numpy()


def repeats(main: Main) -> float:
    """The share of the rows whose user had the item before."""
    if main.user is None or main.item is None:
        return 0.0
    pairs = main.table.whole(main.user, main.item)
    return 1.0 - pairs.unique().height / max(pairs.height, 1)


def as_events(table: Table, main: Main) -> Main | None:
    """A file of other events of users and items, with times; None where it is none."""
    user, item = (id_of(table, known) for known in (USER, ITEM))
    if user is None or item is None or main.time is None or table.is_key(item) or table.is_key(user):
        return None
    time = _time_of(table, (user, item))
    if time is None:
        return None
    return Main(table, "events", user, item, time, None, _action_of(table, (user, item, time)), None, (), False)

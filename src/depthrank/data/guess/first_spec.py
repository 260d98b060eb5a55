"""A folder of files -> the text of a first ``ranking.yaml``, every guess with its reason beside it.

Guesses are made from names, types and values; what cannot be known (which context a server will send, what a click is
worth) takes a safe form and says so. The text loads as a ``Spec``; what a person then changes is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from depthrank.data.guess.kinds import kind_of
from depthrank.data.guess.main_file import Main, Named, as_events, find_main, repeats, span_days
from depthrank.data.guess.names import words
from depthrank.data.guess.past_features import past_features
from depthrank.data.guess.roles import ITEM, USER, named
from depthrank.data.guess.sent_columns import sent_columns
from depthrank.data.guess.tables import Column, Table, read_tables
from depthrank.data.guess.write_yaml import Found, written
from depthrank.data.lists import as_lists

OVERLAP = 0.3  # of a log's ids, in the file of entities


@dataclass(frozen=True)
class FirstSpec:
    """The YAML, and what a person should look at first."""

    text: str
    notes: tuple[str, ...]


def first_spec(folder: str | Path, given: Named | None = None) -> FirstSpec:
    """Guess a spec for the files of ``folder``. Raises DataError where no file can be the main one."""
    folder = Path(folder)
    tables = read_tables(folder)
    main = find_main(tables, given or Named())
    rest = [table for table in tables if table is not main.table]
    items = _entities(rest, main, main.item, ITEM, USER)
    rest = [table for table in rest if items is None or table is not items[0]]
    users = _entities([table for table in rest if not _is_history(table)], main, main.user, USER, ITEM)
    rest = [table for table in rest if users is None or table is not users[0]]
    more = [event for table in rest if (event := as_events(table, main)) is not None]
    unused = [table for table in rest if table not in [event.table for event in more]]
    attributes = [] if items is None else [c.name for c in items[0] if _is_attribute(c)]
    repeated = 0.0 if main.form == "requests" else repeats(main)
    past = past_features(main, attributes, repeated, span_days(main))
    found = Found(folder.resolve().name, main, items, users, more, unused, sent_columns(main), past, repeated)
    return FirstSpec(written(found), tuple(_notes(found)))


def _entities(
    tables: Sequence[Table], main: Main, column: str | None, known: str, others: str
) -> tuple[Table, str] | None:
    """The file, and its key, with a row for most ids of a column of the main file; its name is not that of the others'.

    Small whole numbers are in every key: a key of the same name, or one named so, goes before.
    """
    if column is None:
        return None
    values = main.table.columns[column].known
    used = (
        as_lists(values, main.separator).list.explode() if main.form == "requests" and column == main.item else values
    )
    wanted = used.cast(pl.String).unique()
    found: list[tuple[bool, float, tuple[Table, str]]] = []
    for table in tables:
        keys = [c for c in table if c.is_id_like and (named(c, known) or c.name == column or words(c.name) == ["id"])]
        for key in (c.name for c in keys if (c.name == column or not named(c, others)) and table.is_key(c.name)):
            share = int(wanted.is_in(table.whole(key)[key].cast(pl.String).implode()).sum()) / max(len(wanted), 1)
            if share >= OVERLAP:
                found.append((key == column, share, (table, key)))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _is_history(table: Table) -> bool:
    """One row a user with lists: what they did before, rather than what they are."""
    return any(column.is_listed and len(column.known) and kind_of(column).kind != "vector" for column in table)


def _is_attribute(column: Column) -> bool:
    """A column of items that many share: a brand, a category."""
    return kind_of(column).kind == "categorical" and 5 <= column.num_distinct <= 5_000


def _notes(found: Found) -> list[str]:
    main, notes = found.main, []
    if main.time is None:
        dates = [f"{c.name} holds dates such as {c.unread_dates}" for c in main.table if c.unread_dates is not None]
        hint = f" ({dates[0]}: make them date-times, 2026-01-31T12:00:00, first)" if dates else ""
        notes.append(f"no column of times could be read{hint}: the order of the rows stands for them")
    if found.sent.outcomes:
        notes.append(f"left out, because they are known only after the request: {', '.join(found.sent.outcomes)}")
    notes += [
        f"{label.column} from {label.at_least:g} on is a positive of {label.task}: set at_least as you mean it"
        for label in main.labels
        if label.at_least is not None and len({label.column for label in main.labels}) == len(main.labels)
    ]
    if max((label.value for label in main.labels), default=1) > 1:
        notes.append(f"{main.labels[0].column} grades: a task a grade, worth the gain of NDCG; see value.weights")
    elif len(main.tasks) > 1:
        notes.append("every task has the weight 1 in value.weights: say what each is worth to you")
    if main.anonymous:
        stands = main.user or "the row itself"
        notes.append(f"no column of users was found: {stands} stands for one, and there is no history")
    if main.item is None:
        notes.append("no column of items was found: candidates are nothing but their columns (--item COLUMN if one is)")
    if found.unused:
        notes.append(f"not used: {', '.join(table.name for table in found.unused)}")
    notes += [
        f"{table.name} holds lists a user: `histories` in docs/data.md reads lists of past items"
        for table in found.unused
        if _is_history(table)
    ]
    if main.form == "requests" and main.item is not None:
        shown = main.table.columns[main.item]
        empty = 0.0 if shown.values is None else shown.values.null_count() / len(shown.values)
        if empty > 0.1:
            notes.append(f"{empty:.0%} of the rows show nothing: what they tell belongs into a file for `more_events`")
    return notes

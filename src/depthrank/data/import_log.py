"""All files of a dataset into the event log, once: importing again changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from depthrank.data.event_rows import EventRows
from depthrank.data.load import RawDataset, positives_of_events
from depthrank.data.shown import Shown
from depthrank.events import EventBatch, EventLog
from depthrank.schema import Spec

Progress = Callable[[int, int], None]
"""Called with (events done, events in all)."""

_PIECE_ROWS = 65_536
_COLUMNS = ("user", "item", "action", "time_ms", "position", "order")


@dataclass(frozen=True)
class ImportReport:
    """How many events the files hold, were appended, and were in the log already; the log position afterwards."""

    events: int
    appended: int
    duplicates: int
    log_position: int


def import_log(spec: Spec, raw: RawDataset, log: EventLog, progress: Progress | None = None) -> ImportReport:
    """Append every event of ``raw`` in the order of time: impressions, one event a positive label, and all past events.

    Events are known by their content (user, item, action, time), so that importing twice, or a file that grew, adds
    only what is new; equal rows are one event.
    """
    events = dataset_events(spec, raw)
    appended = 0
    for start in range(0, len(events), _PIECE_ROWS):
        piece = events.slice(start, _PIECE_ROWS)
        appended += log.import_events(_batch(piece)).appended
        if progress is not None:
            progress(start + len(piece), len(events))
    return ImportReport(len(events), appended, len(events) - appended, log.position())


def dataset_events(spec: Spec, raw: RawDataset) -> pl.DataFrame:
    """Every event of the dataset in log order: user, item, action, time_ms, position (-1: none)."""
    if isinstance(raw.main, Shown):
        main = _events_of_shown(spec, raw.main)
    else:
        main = _events_of_rows(spec, raw.main)
    past = [_plain_rows(rows.frame) for rows in raw.past]
    # equal times: past first, then the main file by row, an impression before what followed from it
    ordered = [part.with_columns(pl.lit(i).alias("part")) for i, part in enumerate([*past, main])]
    return (
        pl.concat(ordered)
        .sort("time_ms", "part", "order", maintain_order=True)
        .unique(["user", "item", "action", "time_ms"], keep="first", maintain_order=True)
        .select("user", "item", "action", "time_ms", "position")
    )


def _plain_rows(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_row_index("order").with_columns(
        pl.col("order").cast(pl.Int64), pl.lit(-1, dtype=pl.Int32).alias("position")
    )[list(_COLUMNS)]


def _events_of_shown(spec: Spec, shown: Shown) -> pl.DataFrame:
    form = spec.dataset.impressions or spec.dataset.requests
    assert form is not None, "only these two forms show candidates"
    user = pl.Series("user", shown.user, dtype=pl.String).gather(
        np.repeat(np.arange(len(shown.user)), np.diff(shown.offsets))
    )
    num_kinds = 1 + len(spec.tasks)
    base = pl.DataFrame(
        {
            "user": user,
            "item": shown.item.rename("item"),
            "time_ms": shown.shown_ms,
            "position": shown.position,
            "order": np.arange(len(user), dtype=np.int64) * num_kinds,
        }
    )
    parts = [base.with_columns(pl.lit(form.impression_action).alias("action"))]
    for k, name in enumerate(spec.tasks):
        positive = base.filter(shown.label[:, k] > 0)
        parts.append(positive.with_columns(pl.lit(spec.action_of(name)).alias("action"), pl.col("order") + k + 1))
    return pl.concat([part[list(_COLUMNS)] for part in parts])


def _events_of_rows(spec: Spec, rows: EventRows) -> pl.DataFrame:
    """The rows themselves, and one event more for each positive of a label column."""
    num_kinds = 1 + len(spec.tasks)
    base = _plain_rows(rows.frame).with_columns(pl.col("order") * num_kinds)
    parts, positive = [base], positives_of_events(rows, spec)
    for k, (name, task) in enumerate(spec.tasks.items()):
        if task.column is not None:
            more = base.filter(positive[:, k])
            parts.append(more.with_columns(pl.lit(spec.action_of(name)).alias("action"), pl.col("order") + k + 1))
    return pl.concat([part[list(_COLUMNS)] for part in parts])


def _batch(events: pl.DataFrame) -> EventBatch:
    user, item, action = (events[c].to_list() for c in ("user", "item", "action"))
    time_ms = events["time_ms"].to_numpy().astype(np.int64)
    return EventBatch(
        user=user,
        item=item,
        action=action,
        time_ms=time_ms,
        event_id=[_event_id(*row) for row in zip(user, item, action, time_ms.tolist())],
        position=events["position"].to_numpy().astype(np.int32),
    )


def _event_id(user: str, item: str, action: str, time_ms: int) -> str:
    """The name of an event by its content, hashed so that it holds no id in the clear (an erased user leaves none)."""
    content = "\x1f".join((user, item, action, str(time_ms)))
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()

"""A dataset into the event log, and served traffic out of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from small_dataset import MINUTE, T0, Make, impressions

from depthrank.data import examples_from_log, import_log, load_dataset
from depthrank.events import EventBatch, EventLog

HOUR = 60 * MINUTE


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog.open(f"lmdb:{tmp_path}/log", durable=False) as opened:
        yield opened


def test_impressions_and_positives_become_events_in_time_order(small: Make, log: EventLog) -> None:
    spec = small()
    report = import_log(spec, load_dataset(spec), log)
    frame = impressions()
    positives = int(frame["is_click"].sum()) + int(frame["is_like"].sum())
    assert report.events == report.appended == len(frame) + positives
    read = list(log.scan())
    times = np.concatenate([e.time_ms for e in read])
    assert (np.diff(times) >= 0).all()
    first = [a for e in read for a, t in zip(e.action, e.time_ms.tolist()) if t == times[times > times[0]][0]]
    assert first[0] == "impression"


def test_what_followed_an_impression_stands_beside_it(small: Make, log: EventLog) -> None:
    frame = impressions(visits=4, shown=1).with_columns(pl.lit(T0).alias("time_ms"))
    frame = frame.with_columns((pl.int_range(pl.len()) % 5 > 0).cast(pl.Int64).alias("is_click"))
    spec = small({"split": {"validation": 0.0, "test": 0.0}}, impressions=frame)
    import_log(spec, load_dataset(spec), log)
    order = [(u, i) for e in log.scan() for u, i in zip(e.user, e.item)]
    runs = 1 + sum(a != b for a, b in pairwise(order))
    assert runs == len(set(order))  # the events of one user and item at one time are neighbours


def test_importing_twice_and_a_grown_file_add_only_what_is_new(small: Make, log: EventLog) -> None:
    spec = small()
    first = import_log(spec, load_dataset(spec), log)
    again = import_log(spec, load_dataset(spec), log)
    assert again.appended == 0 and again.duplicates == first.events and log.position() == first.log_position
    longer = small(impressions=impressions(visits=9))
    grown = import_log(longer, load_dataset(longer), log)
    assert grown.appended == grown.events - first.events > 0


def test_event_ids_hold_no_user_id(small: Make, log: EventLog) -> None:
    spec = small()
    import_log(spec, load_dataset(spec), log)
    ids = [i for e in log.scan() if e.event_id is not None for i in e.event_id if i is not None]
    assert not any("u1" in i for i in ids)


def test_progress_is_reported_to_the_end(small: Make, log: EventLog) -> None:
    spec, seen = small(), []
    import_log(spec, load_dataset(spec), log, lambda done, total: seen.append((done, total)))
    assert seen and seen[-1][0] == seen[-1][1]


def serve(log: EventLog, request_id: str, user: str, at_ms: int, shown: list[int]) -> None:
    """What the server records of an answer."""
    extra = [
        msgspec.msgpack.encode({"context": {"device": "tv"}, "candidate": {"price": 2.0 + i}})
        for i in range(len(shown))
    ]
    log.import_events(
        EventBatch(
            user=[user] * len(shown),
            item=[str(i) for i in shown],
            action=["impression"] * len(shown),
            time_ms=np.full(len(shown), at_ms, dtype=np.int64),
            request_id=[request_id] * len(shown),
            position=np.arange(len(shown), dtype=np.int32),
            extra=extra,
        )
    )


def act(log: EventLog, user: str, item: int, action: str, at_ms: int, request_id: str | None = None) -> None:
    log.import_events(
        EventBatch([user], [str(item)], [action], np.array([at_ms], dtype=np.int64), request_id=[request_id])
    )


def test_served_impressions_join_the_actions_that_followed(small: Make, log: EventLog) -> None:
    spec = small({"split": {"validation": 0.0, "test": 0.0}})
    raw = load_dataset(spec)
    import_log(spec, raw, log)
    after, now = log.position(), T0 + 90 * HOUR
    serve(log, "r1", "u1", now, [10, 11, 12])
    serve(log, "r2", "u9", now + MINUTE, [13, 99])
    act(log, "u1", 11, "click", now + 2 * MINUTE, "r1")
    act(log, "u1", 12, "like", now + 3 * MINUTE)  # no request id: joins by user, item and window
    act(log, "u1", 10, "click", now + HOUR)  # too late to belong to the impression
    act(log, "u1", 13, "click", now + MINUTE, "r1")  # was not shown
    examples = examples_from_log(spec, log, raw, after=after, as_of_ms=now + 2 * HOUR)
    assert examples is not None
    assert examples.user == ["u1", "u9"] and examples.user_row.tolist() == [1, 0]
    assert examples.item_row.tolist() == [1, 2, 3, 4, 0]
    assert examples.label[:, 0].tolist() == [0, 1, 0, 0, 0] and examples.label[:, 1].tolist() == [0, 0, 1, 0, 0]
    assert examples.position.tolist() == [0, 1, 2, 0, 1]
    assert examples.context == {"device": ["tv", "tv"]} and examples.candidate["price"].tolist() == [2, 3, 4, 2, 3]


def test_a_window_that_is_open_gives_no_negative(small: Make, log: EventLog) -> None:
    spec = small({"split": {"validation": 0.0, "test": 0.0}})
    raw = load_dataset(spec)
    serve(log, "r1", "u1", T0, [10, 11])
    act(log, "u1", 11, "click", T0 + MINUTE, "r1")
    waiting = examples_from_log(spec, log, raw, as_of_ms=T0 + 2 * MINUTE)
    assert waiting is not None
    assert np.isnan(waiting.label[0]).all() and waiting.label[1, 0] == 1 and np.isnan(waiting.label[1, 1])
    closed = examples_from_log(spec, log, raw, as_of_ms=T0 + HOUR)
    assert closed is not None and not np.isnan(closed.label).any()


def test_imported_impressions_are_no_served_traffic(small: Make, log: EventLog) -> None:
    spec = small()
    raw = load_dataset(spec)
    import_log(spec, raw, log)
    assert examples_from_log(spec, log, raw) is None

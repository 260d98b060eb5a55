"""The contract of an event log, for every backend."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from depthrank.errors import LogError, RequestError
from depthrank.events import EventBatch, EventLog, UserVersion

FAR_MS = 10_000_000
EXAMPLES = 25


def batch(*events: tuple[str, str, str, int], **columns: Any) -> EventBatch:
    """(user, item, action, time_ms) rows as an EventBatch."""
    users, items, actions, times = zip(*events) if events else ((), (), (), ())
    return EventBatch(list(users), list(items), list(actions), np.array(times, np.int64), **columns)


def items_of(log: EventLog, user: str, as_of_ms: int = FAR_MS, limit: int = 1000, **options: Any) -> list[str]:
    return log.item_ids(log.history(user, as_of_ms, limit, **options).item_code)


def scanned(log: EventLog, **options: Any) -> list[tuple[Any, ...]]:
    """Every event of a scan with all its fields, a tuple each."""
    rows: list[tuple[Any, ...]] = []
    for b in log.scan(**options):
        nothing = [None] * len(b)
        assert b.appended_ms is not None and b.position is not None and b.log_position is not None
        columns = (b.log_position.tolist(), b.user, b.item, b.action, b.time_ms.tolist(), b.appended_ms.tolist())
        rows += zip(*columns, b.event_id or nothing, b.request_id or nothing, b.position.tolist(), b.extra or nothing)
    return rows


# ---------------------------------------------------------------------- append and read


def test_an_appended_event_is_in_the_history_and_in_the_scan_with_all_its_fields(place):
    log = place.open()
    result = log.append(
        batch(
            ("u", "a", "click", 10),
            ("u", "b", "buy", 20),
            event_id=["e1", None],
            request_id=[None, "r1"],
            position=np.array([-1, 3], np.int32),
            extra=[b"\x81", None],
        )
    )
    assert result.positions.tolist() == [0, 1] and (result.appended, result.duplicates) == (2, 0)
    history = log.history("u", FAR_MS, 10)
    assert history.time_ms.tolist() == [10, 20] and history.log_position.tolist() == [0, 1]
    assert history.appended_ms.tolist() == [1_000_000, 1_000_000]
    assert (history.item_code.dtype, history.action_code.dtype) == (np.int32, np.int16)
    assert log.item_ids(history.item_code) == ["a", "b"]
    assert [log.action_dictionary()[c] for c in history.action_code] == ["click", "buy"]
    assert scanned(log) == [
        (0, "u", "a", "click", 10, 1_000_000, "e1", None, -1, b"\x81"),
        (1, "u", "b", "buy", 20, 1_000_000, None, "r1", 3, None),
    ]


def test_an_unknown_user_has_an_empty_history_and_no_version(place):
    log = place.open()
    assert len(log.history("nobody", FAR_MS, 10)) == 0
    assert log.user_version("nobody") == UserVersion(0, -1)
    assert log.position() == -1


def test_an_event_at_exactly_the_time_is_not_yet_history(place):
    log = place.open()
    log.import_events(batch(("u", "a", "click", 10)))
    assert items_of(log, "u", as_of_ms=10) == []
    assert items_of(log, "u", as_of_ms=11) == ["a"]


def test_a_late_event_is_placed_by_its_time_and_seen_from_its_arrival_on(place):
    log = place.open()
    place.clock_ms[0] = 1_000
    log.append(batch(("u", "first", "click", 100), ("u", "last", "click", 300)))
    place.clock_ms[0] = 5_000
    log.append(batch(("u", "late", "click", 200)))
    assert items_of(log, "u", as_of_ms=4_999) == ["first", "last"]
    assert items_of(log, "u", as_of_ms=5_000) == ["first", "late", "last"]
    assert items_of(log, "u", as_of_ms=5_000, limit=2) == ["late", "last"]


def test_equal_times_are_in_the_order_of_arrival(place):
    log = place.open()
    log.import_events(batch(("u", "b", "click", 10), ("u", "a", "click", 10)))
    log.import_events(batch(("u", "c", "click", 10)))
    assert items_of(log, "u") == ["b", "a", "c"]


def test_the_limit_counts_only_listed_actions(place):
    log = place.open()
    shown = [("u", f"i{n}", "click" if n % 10 == 0 else "impression", n) for n in range(3000)]
    log.import_events(batch(*shown))
    assert items_of(log, "u", limit=5, actions=["click"]) == [f"i{n}" for n in range(2950, 3000, 10)]
    assert items_of(log, "u", limit=2, actions=["click", "impression"]) == ["i2998", "i2999"]
    assert items_of(log, "u", limit=2, actions=["never seen"]) == []
    assert items_of(log, "u", limit=2, actions=[]) == []
    assert items_of(log, "u", limit=0) == []


def test_a_limit_of_zero_reads_nothing_for_one_request_or_many(place):
    log = place.open()
    log.import_events(batch(("u", "a", "click", 10), ("v", "b", "click", 10)))
    for users in (["u"], ["u", "v"]):
        for actions in (None, ["click"]):
            for as_of_ms in (11, 2**60):
                many = log.histories(users, np.full(len(users), as_of_ms), 0, actions)
                assert [len(history.item_code) for history in (many[n] for n in range(len(users)))] == [0] * len(users)


def test_a_repeated_event_id_is_a_no_op_across_calls_and_within_one(place):
    log = place.open()
    log.append(batch(("u", "a", "click", 10), event_id=["e1"]))
    result = log.append(
        batch(("u", "b", "click", 11), ("v", "c", "click", 12), ("v", "d", "click", 13), event_id=["e1", "e2", "e2"])
    )
    assert result.positions.tolist() == [-1, 1, -1] and (result.appended, result.duplicates) == (1, 2)
    assert [row[2] for row in scanned(log)] == ["a", "c"]
    assert log.append(batch(("x", "y", "click", 1), event_id=["e1"])).appended == 0
    assert log.item_code("y") is None, "a duplicate leaves no trace in the dictionary"


def test_imported_events_arrived_when_they_happened_unless_said_otherwise(place):
    log = place.open()
    log.import_events(batch(("u", "a", "click", 10)))
    log.import_events(batch(("u", "b", "click", 11), appended_ms=np.array([500])))
    assert [row[5] for row in scanned(log)] == [10, 500]


def test_an_empty_batch_is_appended_at_once(place):
    log = place.open()
    assert log.append(batch()).appended == 0 and log.position() == -1


def test_scan_gives_exactly_the_positions_and_actions_asked_for(place):
    log = place.open()
    log.import_events(batch(*[("u", f"i{n}", "ab"[n % 2], n) for n in range(2500)]))
    assert [row[0] for row in scanned(log, after=9, until=13)] == [10, 11, 12, 13]
    assert [row[0] for row in scanned(log, after=2495, actions=["b"])] == [2497, 2499]
    assert [row[0] for row in scanned(log, batch_size=100)] == list(range(2500))
    assert scanned(log, after=2499) == []


def test_a_scan_sees_no_event_twice_while_others_append(place):
    log = place.open()
    log.import_events(batch(*[("u", f"i{n}", "click", n) for n in range(3000)]))
    positions = []
    for b in log.scan(batch_size=1000):
        positions += b.log_position.tolist()
        if len(positions) < 3000:
            log.append(batch(("u", "new", "click", 1)))
    assert positions == sorted(set(positions)) and positions[:3000] == list(range(3000))


def test_codes_never_change_and_dictionaries_list_them(place):
    log = place.open()
    log.append(batch(("u", "b", "click", 1)))
    before = log.item_dictionary()
    log.append(batch(("u", "a", "like", 2), ("u", "b", "click", 3)))
    assert log.item_dictionary()[: len(before)] == before == ["b"]
    assert log.item_dictionary()[log.item_code("a")] == "a"
    assert log.action_dictionary()[log.action_code("like")] == "like"
    assert log.action_code("never") is None and log.item_code("never") is None


# ---------------------------------------------------------------------- versions


def test_a_version_says_whether_a_cached_state_may_be_extended(place):
    log = place.open()
    log.append(batch(("u", "a", "click", 100)))
    first = log.user_version("u")
    log.append(batch(("v", "a", "click", 1)))
    assert log.user_version("u") == first, "somebody else's event changes nothing"
    log.append(batch(("u", "b", "click", 100)))
    extended = log.user_version("u")
    assert extended.epoch == first.epoch and extended.position > first.position
    log.append(batch(("u", "c", "click", 99)))
    assert log.user_version("u").epoch != first.epoch, "a late event changes the past"


def test_erasing_and_returning_never_gives_an_old_version_again(place):
    log = place.open()
    log.append(batch(("u", "a", "click", 100), ("v", "a", "click", 100)))
    seen = {log.user_version("u")}
    for _ in range(3):
        log.erase("u")
        log.append(batch(("u", "a", "click", 100)))
        version = log.user_version("u")
        assert version not in seen and all(version.epoch != old.epoch for old in seen)
        seen.add(version)


def test_retention_changes_the_version_of_those_who_lost_events_only(place):
    log = place.open()
    log.import_events(batch(("u", "a", "click", 10), ("u", "b", "click", 90), ("v", "b", "click", 95)))
    u, v = log.user_version("u"), log.user_version("v")
    assert log.retain(50) == 1
    assert log.user_version("u").epoch != u.epoch and log.user_version("v") == v


# ---------------------------------------------------------------------- removal


def test_an_erased_user_and_what_only_they_used_is_gone(place):
    log = place.open()
    log.append(batch(("u", "secret", "click", 1), ("u", "shared", "click", 2), event_id=["e1", "e2"]))
    log.append(batch(("v", "shared", "click", 3), event_id=["e3"]))
    code = log.item_code("shared")
    result = log.erase("u")
    assert (result.events, result.items) == (2, 1)
    assert len(log.history("u", FAR_MS, 10)) == 0 and log.user_version("u") == UserVersion(0, -1)
    assert [row[1] for row in scanned(log)] == ["v"]
    assert log.item_code("secret") is None and log.item_dictionary()[0] == ""
    assert log.item_code("shared") == code and items_of(log, "v") == ["shared"]
    assert log.append(batch(("w", "new", "click", 4), event_id=["e1"])).positions.tolist() == [3], "e1 is forgotten"
    assert log.item_code("new") == 2, "a code is not used again"
    assert log.verify().problems == ()


def test_erasing_an_unknown_user_changes_nothing(place):
    log = place.open()
    log.append(batch(("u", "a", "click", 1)))
    before = log.stats()
    assert log.erase("nobody").events == 0
    assert log.stats().generation == before.generation and log.stats().events == 1


def test_retention_removes_what_is_older_and_nothing_else(place):
    log = place.open()
    log.import_events(batch(*[("u" if n % 2 else "v", f"i{n}", "click", n) for n in range(1000)]))
    assert log.retain(400) == 400
    assert [row[4] for row in scanned(log)] == list(range(400, 1000))
    assert items_of(log, "u", limit=2000) == [f"i{n}" for n in range(401, 1000, 2)]
    assert log.stats().first_time_ms == 400
    assert log.retain(400) == 0
    assert log.verify().problems == ()


# ---------------------------------------------------------------------- catalogue upserts


def test_upserts_are_numbered_and_read_back_in_order_by_everybody(place):
    url = place.new_url()
    log, reader = place.open(url), place.open(url, read_only=True)
    payloads = [b"", b"one", b"\0\xff" * 3000, b"x" * 100_000] + [b"%d" % n for n in range(200)]
    assert [log.append_upsert(payload) for payload in payloads] == list(range(len(payloads)))
    assert list(reader.upserts()) == list(enumerate(payloads))
    assert list(log.upserts(after=201)) == list(enumerate(payloads))[202:]
    assert list(log.upserts(after=len(payloads) - 1)) == []
    log.close()
    reopened = place.open(url)
    assert list(reopened.upserts()) == list(enumerate(payloads))
    assert reopened.append_upsert(b"next") == len(payloads)
    assert reopened.position() == -1 and reopened.verify().problems == (), "upserts are no events"


def test_large_upserts_are_read_in_steps(place):
    log = place.open(durable=False)
    for n in range(3):
        log.append_upsert(bytes([n]) * (9 << 20))
    assert [(n, len(payload), payload[:1]) for n, payload in log.upserts()] == [
        (n, 9 << 20, bytes([n])) for n in range(3)
    ]


def test_erasure_and_retention_keep_upserts(place):
    log = place.open()
    log.append_upsert(b"first")
    log.import_events(batch(("u", "a", "click", 10), ("v", "b", "click", 90)))
    log.append_upsert(b"second")
    assert log.erase("u").events == 1 and log.retain(50) == 0 and log.retain(95) == 1
    assert list(log.upserts()) == [(0, b"first"), (1, b"second")]
    assert log.append_upsert(b"third") == 2
    assert log.verify().problems == ()


def test_a_backup_holds_upserts_and_restores_them_on_any_backend(place, tmp_path):
    log = place.open()
    for n in range(5):
        log.append_upsert(b"%d" % n * 4_000_000)
    log.append(batch(("u", "a", "click", 1)))
    assert log.backup(tmp_path / "backup") == 1
    for url in (place.new_url(), f"lmdb:{tmp_path}/restored"):
        restored = EventLog.restore(tmp_path / "backup", url)
        place.opened.append(restored)
        assert list(restored.upserts()) == list(log.upserts())
        assert restored.append_upsert(b"more") == 5
    only_upserts = place.new_url()
    place.open(only_upserts).append_upsert(b"x")
    with pytest.raises(LogError, match="is not empty"):
        EventLog.restore(tmp_path / "backup", only_upserts)


def test_an_upsert_that_cannot_be_kept_is_refused_and_leaves_nothing(place):
    url = place.new_url()
    log = place.open(url)
    with pytest.raises(RequestError, match=r"\$\.payload: found str, expected bytes"):
        log.append_upsert("text")
    with pytest.raises(
        RequestError, match=r"\$\.payload: found .* bytes, expected at most .*; send the upsert in parts"
    ):
        log.append_upsert(bytes((64 << 20) + 1))
    assert list(log.upserts()) == []
    with pytest.raises(LogError, match="read_only"):
        place.open(url, read_only=True).append_upsert(b"x")
    log.close()
    with pytest.raises(LogError, match="is closed"):
        log.append_upsert(b"x")


def test_threads_upsert_and_append_at_once_without_loss(place):
    log = place.open(durable=False)
    numbers: list[int] = []

    def work(thread: int) -> None:
        for n in range(20):
            numbers.append(log.append_upsert(b"%d-%d" % (thread, n)))
            log.append(batch((f"u{thread}", f"i{n}", "click", n)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = [payload for _, payload in log.upserts()]
    assert sorted(numbers) == list(range(60)) and len(set(stored)) == 60
    for thread in range(3):
        own = [p for p in stored if p.startswith(b"%d-" % thread)]
        assert own == [b"%d-%d" % (thread, n) for n in range(20)], "each thread's are in its order"


# ---------------------------------------------------------------------- hostile and odd input


@pytest.mark.parametrize("name", ["ünï-✓", "nul\0inside", " ", "a" * 600, "=x", "#y", "x" * 1_000_000])
def test_any_text_up_to_the_limit_is_an_id(place, name):
    log = place.open()
    log.append(batch((name, name, name[:1000], 5), event_id=[name], request_id=[name]))
    assert items_of(log, name, actions=[name[:1000]]) == [name]
    assert scanned(log)[0][1:4] == (name, name, name[:1000]) and scanned(log)[0][6:8] == (name, name)
    assert log.append(batch((name, name, "x", 6), event_id=[name])).duplicates == 1
    assert log.erase(name).events == 1 and scanned(log) == []


def test_long_ids_that_share_a_beginning_stay_apart(place):
    log = place.open()
    log.append(batch(("p" * 600 + "1", "q" * 600 + "1", "a", 1), ("p" * 600 + "2", "q" * 600 + "2", "a", 2)))
    assert items_of(log, "p" * 600 + "2") == ["q" * 600 + "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": [""]}, r"\$\.user\[0\]: found an empty string"),
        ({"user": [7]}, r"\$\.user\[0\]: found int, expected a string.*write str\(id\)"),
        ({"item": ["\ud800"]}, r"\$\.item\[0\]: found '\\ud800', which has a lone surrogate"),
        ({"item": ["x" * 1_048_577]}, r"\$\.item\[0\]: found .* of 1,048,577 bytes, expected .* 1 to 1,048,576 bytes"),
        ({"action": ["a", "b"]}, r"\$\.action: found 2 rows, expected 1"),
        ({"time_ms": np.array([-1])}, r"\$\.time_ms\[0\]: found -1"),
        ({"time_ms": np.array([1.5])}, r"\$\.time_ms: found float64"),
        ({"time_ms": np.array([1_700_000_000_000_000])}, r"looks like microseconds: divide by 1,000"),
        ({"appended_ms": np.array([-5])}, r"\$\.appended_ms\[0\]"),
        ({"event_id": [""]}, r"\$\.event_id\[0\]: found an empty string"),
        ({"request_id": [3]}, r"\$\.request_id\[0\]: found int"),
        ({"position": np.array([-2])}, r"\$\.position\[0\]: found -2"),
        ({"extra": ["text"]}, r"\$\.extra\[0\]: found str"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_appended(place, change, message):
    log = place.open()
    right = batch(("u", "a", "click", 1))
    with pytest.raises(RequestError, match=message):
        log.append(replace(right, **change))
    assert log.position() == -1
    assert log.append(right).appended == 1, "the same batch without the wrong field is appended"


def test_a_negative_limit_is_refused(place):
    log = place.open()
    with pytest.raises(RequestError, match=r"\$\.limit"):
        log.history("u", 1, -1)
    with pytest.raises(RequestError, match=r"\$\.limit"):
        log.histories(["u"], np.array([1]), -1)


# ---------------------------------------------------------------------- processes, threads, opening


def test_a_log_opened_again_has_everything_and_goes_on(place):
    url = place.new_url()
    log = place.open(url)
    log.append(batch(("u", "a", "click", 1), event_id=["e1"]))
    version = log.user_version("u")
    log.close()
    log = place.open(url)
    assert items_of(log, "u") == ["a"] and log.user_version("u") == version
    assert log.append(batch(("u", "b", "click", 2), event_id=["e1"])).duplicates == 1


def test_two_logs_open_in_one_process_see_each_other(place):
    url = place.new_url()
    writer, reader = place.open(url), place.open(url, read_only=True)
    writer.append(batch(("u", "a", "click", 1)))
    assert items_of(reader, "u") == ["a"]
    writer.erase("u")
    assert items_of(reader, "u") == []
    writer.append(batch(("u", "b", "click", 2)))
    writer.close()
    assert items_of(reader, "u") == ["b"]


def test_a_read_only_log_refuses_to_change(place):
    url = place.new_url()
    with pytest.raises(LogError, match="there is no event log"):
        place.open(url, read_only=True)
    place.open(url).append(batch(("u", "a", "click", 1)))
    log = place.open(url, read_only=True)
    for change in (lambda: log.append(batch(("u", "a", "click", 1))), lambda: log.erase("u"), lambda: log.retain(5)):
        with pytest.raises(LogError, match="read_only"):
            change()


def test_a_closed_log_says_so(place):
    log = place.open()
    log.close()
    log.close()
    with pytest.raises(LogError, match="is closed"):
        log.history("u", 1, 1)
    with pytest.raises(LogError, match="is closed"):
        log.append(batch(("u", "a", "click", 1)))


def test_threads_append_and_erase_at_once_without_loss(place):
    log = place.open(durable=False)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(40):
                log.append(batch((f"u{number}", f"i{n}", "click", n), event_id=[f"{number}-{n}"]))
                assert items_of(log, f"u{number}")[-1] == f"i{n}"
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            errors.append(error)

    log.append(batch(*[(f"gone{n}", "x", "click", 1) for n in range(3)]))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for n in range(3):
        log.erase(f"gone{n}")
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(scanned(log)) == 160 and log.stats().events == 160 and log.verify().problems == ()


# ---------------------------------------------------------------------- operations


def test_stats_count_what_is_there(place):
    log = place.open()
    log.import_events(batch(("u", "a", "click", 10), ("u", "b", "like", 30), ("v", "a", "click", 20)))
    stats = log.stats()
    assert (stats.events, stats.users, stats.items, stats.actions, stats.position) == (3, 2, 2, 2, 2)
    assert (stats.first_time_ms, stats.last_time_ms, stats.generation) == (10, 30, 1)
    assert stats.bytes_on_disk > 0 and stats.bytes_per_event == stats.bytes_on_disk / 3
    assert stats.backend == place.backend and stats.durable


def test_a_backup_restores_to_the_same_log_on_any_backend(place, tmp_path):
    log = place.open()
    log.append(batch(("gone", "only theirs", "click", 1), event_id=["e0"]))
    log.append(
        batch(*[("u", f"i{n}", "click", 2000 - n) for n in range(1500)], event_id=[f"x{n}" for n in range(1500)])
    )
    log.erase("gone")
    log.append(batch(("v", "i1", "like", 5), extra=[b"payload"], position=np.array([4], np.int32)))
    assert log.backup(tmp_path / "backup") == 1501
    for url in (place.new_url(), f"lmdb:{tmp_path}/restored"):
        restored = EventLog.restore(tmp_path / "backup", url)
        place.opened.append(restored)
        assert scanned(restored) == scanned(log)
        assert restored.item_dictionary() == log.item_dictionary() and restored.position() == log.position()
        assert items_of(restored, "u") == items_of(log, "u")
        assert restored.append(batch(("u", "x", "click", 1), event_id=["x3"])).duplicates == 1
    with pytest.raises(LogError, match="is not empty"):
        EventLog.restore(tmp_path / "backup", url)


def test_a_backup_after_an_erasure_holds_nothing_of_the_erased(place, tmp_path):
    log = place.open()
    log.append(batch(("zebra-user", "zebra-item", "click", 1), event_id=["zebra-event"], extra=[b"zebra-extra"]))
    log.append(batch(("u", "a", "click", 1)))
    log.backup(tmp_path / "before")
    assert holds_bytes(tmp_path / "before", b"zebra"), "the search can find it"
    log.erase("zebra-user")
    log.backup(tmp_path / "after")
    assert not holds_bytes(tmp_path / "after", b"zebra")


def holds_bytes(folder: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------- against a model


@dataclass(frozen=True)
class Row:
    position: int
    user: str
    item: str
    action: str
    time_ms: int
    appended_ms: int
    event_id: str | None


class Model:
    """What the log must hold, in a list."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.next_position = 0

    def append(self, events: list[tuple[str, str, str, int, str | None]], now_ms: int) -> list[int]:
        positions = []
        for user, item, action, time_ms, event_id in events:
            if event_id is not None and any(row.event_id == event_id for row in self.rows):
                positions.append(-1)
                continue
            self.rows.append(Row(self.next_position, user, item, action, time_ms, now_ms, event_id))
            positions.append(self.next_position)
            self.next_position += 1
        return positions

    def history(self, user: str, as_of_ms: int, limit: int, actions: list[str] | None) -> list[Row]:
        rows = [r for r in self.rows if r.user == user and r.time_ms < as_of_ms and r.appended_ms <= as_of_ms]
        rows = [r for r in rows if actions is None or r.action in actions]
        rows.sort(key=lambda r: (r.time_ms, r.position))
        return rows[max(len(rows) - limit, 0) :]


users, items, actions = (st.sampled_from([f"{kind}{n}" for n in range(3)]) for kind in "uia")
events = st.tuples(users, items, actions, st.integers(0, 60), st.none() | st.sampled_from(["e1", "e2", "e3", "e4"]))
steps = st.one_of(
    st.tuples(st.just("append"), st.lists(events, min_size=1, max_size=8)),
    st.tuples(st.just("append"), st.lists(events, min_size=1, max_size=8)),
    st.tuples(st.just("many"), st.tuples(users, st.integers(100, 700), st.integers(0, 2**32))),
    st.tuples(st.just("erase"), users),
    st.tuples(st.just("retain"), st.integers(0, 30)),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=7), st.data())
def test_random_arrivals_removals_and_reads_agree_with_a_model(place, steps, data):
    log, model, place.clock_ms[0] = place.open(durable=False), Model(), 0
    for kind, what in steps:
        place.clock_ms[0] += data.draw(st.integers(0, 20))
        if kind in ("append", "many"):
            rows = what if kind == "append" else _many(*what)
            columns = {"event_id": [r[4] for r in rows]}
            result = log.append(batch(*[r[:4] for r in rows], **columns))
            assert result.positions.tolist() == model.append(rows, place.clock_ms[0])
        elif kind == "erase":
            assert log.erase(what).events == sum(r.user == what for r in model.rows)
            model.rows = [r for r in model.rows if r.user != what]
        else:
            assert log.retain(what) == sum(r.time_ms < what for r in model.rows)
            model.rows = [r for r in model.rows if r.time_ms >= what]
        model.next_position = max(model.next_position, log.position() + 1)
    _compare(log, model, data)


def _many(user: str, count: int, seed: int) -> list[tuple[str, str, str, int, None]]:
    """Enough events in random order for several chunks."""
    times = np.random.default_rng(seed).integers(0, 60, count)
    return [(user, f"i{n % 3}", f"a{n % 2}", int(time), None) for n, time in enumerate(times)]


def _compare(log: EventLog, model: Model, data: Any) -> None:
    assert log.verify().problems == ()
    assert [row[:7] for row in scanned(log)] == [
        (r.position, r.user, r.item, r.action, r.time_ms, r.appended_ms, r.event_id) for r in model.rows
    ]
    item_ids, action_ids = log.item_dictionary(), log.action_dictionary()
    assert {i for i in item_ids if i} == {r.item for r in model.rows}
    reads = data.draw(st.lists(st.tuples(users, st.integers(0, 150)), min_size=1, max_size=8))
    limit = data.draw(st.sampled_from([0, 1, 3, 254, 255, 256, 2000]))
    listed = data.draw(st.none() | st.lists(actions, max_size=2, unique=True))
    many = log.histories([user for user, _ in reads], np.array([t for _, t in reads]), limit, listed)
    assert len(many) == len(reads)
    for i, (user, as_of_ms) in enumerate(reads):
        expected = [
            (r.position, r.item, r.action, r.time_ms, r.appended_ms)
            for r in model.history(user, as_of_ms, limit, listed)
        ]
        for history in (log.history(user, as_of_ms, limit, listed), many[i]):
            names = [item_ids[c] for c in history.item_code], [action_ids[c] for c in history.action_code]
            numbers = history.time_ms.tolist(), history.appended_ms.tolist()
            assert list(zip(history.log_position.tolist(), *names, *numbers)) == expected

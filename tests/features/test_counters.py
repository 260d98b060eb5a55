"""Counters against a count by hand, and what they promise about late events, erasure, threads and files."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from feature_world import COUNTERS, HOUR_MS, START_MS, World, event_batch, make_items, make_spec, make_users
from hypothesis import given, settings
from strategies_of_events import arrivals, moments

from depthrank.errors import ArtifactError, SpecError
from depthrank.features import Counters, counter_windows
from depthrank.features.count_table import Counts, CountTable
from depthrank.features.window_counts import Places, window_counts

Events = list[tuple[str, str, str, int, int]]
WINDOWS_H = (2, 6)


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(COUNTERS)


def fed(world: World, events: Events) -> Counters:
    counters = Counters(world.spec, world.items, world.users)
    counters.append(event_batch(events))
    return counters


def floats_of(counters: Counters, name: str, user: str, item: str, t: int) -> np.ndarray:
    rows = make_items().row_of([item])
    return counters.query([user], np.array([t]), rows, np.zeros(1, np.int64)).floats(f"count_{name}")[0]


def by_hand(events: Events, actions: tuple[str, ...], t: int, hours: int, key: dict[str, object]) -> int:
    bucket = t // HOUR_MS
    return sum(
        event[2] in actions
        and bucket - hours <= max(event[3], event[4]) // HOUR_MS < bucket
        and all(KEYS[part](event) == value for part, value in key.items())
        for event in events
    )


AUTHOR = dict(zip("abcdef", ["7", "7", None, "8", "9", "9"]))
GENDER = {"u1": "f", "u3": "m"}
KEYS = {
    "user": lambda e: e[0],
    "item": lambda e: e[1],
    "item.author": lambda e: AUTHOR.get(e[1]),
    "user.gender": lambda e: GENDER.get(e[0]),
}


@settings(max_examples=60, deadline=None)
@given(events=arrivals(40), t=moments)
def test_counts_are_those_counted_by_hand(events: Events, t: int) -> None:
    world = World.make(COUNTERS)
    counters = fed(world, events)
    asked = ("u1", "a", "click", 0, 0)
    for name in COUNTERS:
        parts = name.removeprefix("count_").split("*")
        found = floats_of(counters, name.removeprefix("count_"), "u1", "a", t)
        key = {part: KEYS[part](asked) for part in parts}
        counts = [by_hand(events, ("click", "like"), t, hours, key) for hours in WINDOWS_H]
        np.testing.assert_allclose(found[:2], np.log1p(counts), rtol=1e-6)
        counted = [e for e in events if all(KEYS[part](e) is not None for part in parts)]
        for place, hours in enumerate(WINDOWS_H):
            shown = by_hand(events, ("impression",), t, hours, key)
            all_shown = by_hand(counted, ("impression",), t, hours, {})
            overall = by_hand(counted, ("click", "like"), t, hours, {}) / max(all_shown, 1)
            rate = (counts[place] + 2.0 * overall) / (shown + 2.0)
            np.testing.assert_allclose(found[2 + place], rate, rtol=1e-6)


def test_an_unknown_key_counts_nothing(world: World) -> None:
    counters = fed(world, [("u1", "a", "click", START_MS, START_MS)])
    assert floats_of(counters, "item", "u1", "never", START_MS + HOUR_MS)[0] == 0.0
    assert floats_of(counters, "user*item", "nobody", "a", START_MS + HOUR_MS)[0] == 0.0
    assert floats_of(counters, "item", "u1", "a", START_MS + HOUR_MS)[0] > 0.0


def test_only_complete_buckets_count(world: World) -> None:
    counters = fed(world, [("u1", "a", "click", START_MS, START_MS)])
    assert floats_of(counters, "item", "u1", "a", START_MS + HOUR_MS - 1)[0] == 0.0
    assert floats_of(counters, "item", "u1", "a", START_MS + HOUR_MS)[0] == np.float32(np.log(2))


def test_an_event_in_a_bucket_already_asked_for_drops_the_kept_snapshot(world: World) -> None:
    counters = fed(world, [])
    ahead = START_MS + 3 * HOUR_MS
    assert floats_of(counters, "item", "u1", "a", ahead)[0] == 0.0
    counters.append(event_batch([("u1", "a", "click", START_MS, ahead - HOUR_MS)]))
    assert floats_of(counters, "item", "u1", "a", ahead)[0] > 0.0


def test_an_item_added_while_serving_counts_from_then_on() -> None:
    items = make_items()
    counters = Counters(make_spec(COUNTERS), items, make_users())
    counters.warm(START_MS + HOUR_MS)
    items.upsert({"item": ["new"], "author": [99]})
    counters.append(event_batch([("u1", "new", "click", START_MS, START_MS)]))
    query = counters.query(["u1"], np.array([START_MS + HOUR_MS]), items.row_of(["new"]), np.zeros(1, np.int64))
    assert query.floats("count_item")[0, 0] > 0.0
    assert query.floats("count_user*item.author")[0, 0] > 0.0


def test_a_forgotten_user_is_gone_from_memory_and_from_the_files(world: World, tmp_path: Path) -> None:
    events = [("secret-user", "a", "click", START_MS, START_MS), ("u2", "a", "click", START_MS, START_MS)]
    counters, t = fed(world, events), START_MS + HOUR_MS
    counters.save(tmp_path / "before")
    assert any(b"secret-user" in path.read_bytes() for path in (tmp_path / "before").iterdir())
    assert floats_of(counters, "user*item", "secret-user", "a", t)[0] > 0.0
    assert counters.forget_user("secret-user") == 3  # user, user*item, user*item.author
    assert floats_of(counters, "user*item", "secret-user", "a", t)[0] == 0.0
    assert floats_of(counters, "user*item", "u2", "a", t)[0] > 0.0
    assert floats_of(counters, "item", "u2", "a", t)[0] == np.float32(np.log(3))  # aggregates stay
    counters.save(tmp_path / "after")
    assert not any(b"secret-user" in path.read_bytes() for path in (tmp_path / "after").iterdir())
    assert counters.forget_user("never-seen") == 0


def test_readers_see_whole_states_while_another_thread_appends(world: World) -> None:
    counters = Counters(world.spec, world.items, world.users)
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            item = floats_of(counters, "item", "u1", "a", START_MS + HOUR_MS)
            if not (np.isfinite(item).all() and item[0] == item[1]):
                wrong.append(item)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(300):
        counters.append(event_batch([("u1", "a", "click", START_MS + i, START_MS + i)] * 3))
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert floats_of(counters, "item", "u1", "a", START_MS + HOUR_MS)[0] == np.float32(np.log(901))


def test_saved_counters_of_another_spec_are_refused(world: World, tmp_path: Path) -> None:
    fed(world, []).save(tmp_path)
    other = make_spec({"x": {"kind": "counter", "of": "item", "actions": ["click"]}})
    with pytest.raises(ArtifactError, match="another spec: rebuild"):
        Counters.load(tmp_path, other, world.items, world.users)


@pytest.mark.parametrize("damage", ["gone", "cut", "other type", "manifest"])
def test_damaged_counter_files_are_refused(world: World, tmp_path: Path, damage: str) -> None:
    fed(world, [("u1", "a", "click", START_MS, START_MS)]).save(tmp_path)
    Counters.load(tmp_path, world.spec, world.items, world.users)
    table = tmp_path / "table_0.key.npy"
    if damage == "gone":
        table.unlink()
    elif damage == "cut":
        table.write_bytes(table.read_bytes()[:-4])
    elif damage == "other type":
        np.save(table, np.zeros(1, np.float32))
    else:
        (tmp_path / "counters.json").write_text('{"format": 99, "log_position": 0, "parts": [], "tables": []}')
    with pytest.raises(ArtifactError):
        Counters.load(tmp_path, world.spec, world.items, world.users)


def test_a_counter_by_a_list_column_is_refused(world: World) -> None:
    spec = make_spec({"x": {"kind": "counter", "of": "item.genre", "actions": ["click"]}})
    with pytest.raises(SpecError, match=r"item\.genre"):
        Counters(spec, world.items, world.users)


def test_merging_the_tail_keeps_every_count() -> None:
    rng = np.random.default_rng(0)
    bucket, key = rng.integers(0, 50, 5_000), rng.integers(1, 20, 5_000)
    table = CountTable()
    for start in range(0, 5_000, 500):
        table.add(bucket[start : start + 500], key[start : start + 500])
        if start % 1_000 == 0:
            table.replace(table.state.merged())
    whole = Counts.of_events(bucket, key, np.ones(5_000, np.int64))
    merged = table.state.merged()
    for name in ("bucket", "key", "count"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    counts = window_counts(table.state, (10,), 20, Places.dense(table.state.base), None)
    assert counts.totals_W.tolist() == [((bucket >= 10) & (bucket < 20)).sum()]


@pytest.mark.parametrize("max_dense", [0, 65_536])
def test_a_stretch_is_found_by_search_and_by_array_alike(max_dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counter_windows, "_MAX_DENSE", max_dense)
    keys = np.array([1 << 32 | 5, 2 << 32 | 1, 2 << 32 | 4, 2 << 32 | 9, 3 << 32 | 1], np.int64)
    table = CountTable(Counts(np.zeros(4, np.int64), keys[[0, 1, 2, 4]], np.arange(1, 5)))
    table.add(np.zeros(7, np.int64), keys[[3, 3, 3, 1, 1, 1, 1]])
    counts = window_counts(table.state, (1,), 1, Places.sparse(table.state.base), None)
    snapshot = counter_windows.SparseSnapshot(counts, None, None)
    assert np.expm1(snapshot.lookup(keys)[:, 0]).round().tolist() == [1, 6, 3, 3, 4]
    for second in ([4, 1, 0, 5, 4], [9, 1], [0], []):
        asked = np.array(second, np.int64)
        expected = snapshot.lookup(2 << 32 | asked)
        assert snapshot.lookup_of_first(2, asked).tobytes() == expected.tobytes()
    assert snapshot.lookup_of_first(7, np.array([1])).tolist() == [[0.0]]


@pytest.mark.parametrize("pairs", [False, True])
def test_counts_that_moved_on_with_the_clock_are_those_counted_anew(pairs: bool) -> None:
    rng = np.random.default_rng(0)
    table, lengths = CountTable(), (1, 7, 30)
    kept = None
    for now in range(60):
        bucket, key = rng.integers(max(now - 5, 0), now + 1, 40), rng.integers(1, 12, 40)
        table.add(bucket, key << 32 | rng.integers(1, 4, 40) if pairs else key)
        if now % 9 == 0:
            table.replace(table.state.merged())
        if now % 4 == 1:
            continue  # a bucket in which nobody asked
        places = (Places.sparse if pairs else Places.dense)(table.state.base)
        kept = window_counts(table.state, lengths, now, places, kept)
        merged = table.state.merged()
        keys = np.concatenate([[0, 5 << 33], np.unique(merged.key)])
        for row, length in enumerate(lengths):
            inside = (merged.bucket >= now - length) & (merged.bucket < now)
            by_hand = [int(merged.count[inside & (merged.key == k)].sum()) for k in keys.tolist()]
            assert kept.of_keys(keys)[row].tolist() == by_hand
            assert kept.totals_W[row] == sum(by_hand)
            if not pairs:
                assert kept.all_keys(14)[row, keys[2:]].tolist() == by_hand[2:]

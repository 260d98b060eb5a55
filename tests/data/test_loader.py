"""Batches: complete, repeatable, and the same bits that serving encodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import MINUTE, T0, Make, impressions

from depthrank.data import BatchLoader, Examples, RawDataset, fit_sample, import_log, load_dataset, load_examples
from depthrank.data.histories_in_memory import HistoriesInMemory
from depthrank.data.loader import usual_candidates, usual_requests
from depthrank.events import EventBatch, EventLog
from depthrank.features import Counters, FeatureEncoder, HistoryCodes
from depthrank.schema import Spec

COUNTERS: dict[str, Any] = {
    "features": {
        "clicks": {"kind": "counter", "of": "item", "actions": ["click"], "per": ["impression"], "windows": ["1d"]},
        "mine": {"kind": "counter", "of": "user*item.genre", "actions": ["click"], "windows": ["1d"]},
        "clock": {"kind": "time"},
        "past": {"kind": "history_count"},
    },
    "training": {"batch_requests": 4, "batch_candidates": 7},
}


@dataclass
class World:
    """A dataset imported and encoded."""

    spec: Spec
    raw: RawDataset
    examples: Examples
    log: EventLog
    encoder: FeatureEncoder
    counters: Counters

    def loader(self, split: str = "train", **change: Any) -> BatchLoader:
        given = {"encoder": self.encoder, "log": self.log, "counters": self.counters, **change}
        return BatchLoader(
            given.pop("examples", self.examples), split, self.spec, items=self.raw.items, users=self.raw.users, **given
        )


def world_of(spec: Spec, log: EventLog) -> World:
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    import_log(spec, raw, log)
    encoder = FeatureEncoder.fit(spec, raw.items, raw.users, fit_sample(examples, raw))
    return World(spec, raw, examples, log, encoder, Counters.rebuild(spec, log, raw.items, raw.users))


@pytest.fixture
def world(small: Make, tmp_path: Path) -> Iterator[World]:
    with EventLog.open(f"lmdb:{tmp_path}/log", durable=False) as log:
        yield world_of(small(COUNTERS), log)


def arrays(batch: Any) -> dict[str, np.ndarray]:
    """Every encoded array of a batch, by name."""
    history = {f"history.{n}": getattr(batch.history, n) for n in ("rows", "actions", "gaps", "ages", "length")}
    sides = {f"{s}.{n}": getattr(getattr(batch, s), n) for s in ("request", "candidate") for n in ("ids", "floats")}
    flat = {n: getattr(batch, n) for n in ("item_row", "request_of_candidate", "label", "position", "log_q", "time_ms")}
    return {**history, **sides, **flat}


def assert_same(a: Any, b: Any) -> None:
    for name, values in arrays(a).items():
        np.testing.assert_array_equal(values, arrays(b)[name], err_msg=name)


def test_an_epoch_holds_every_training_request_once_within_the_limits(world: World) -> None:
    batches = list(world.loader().epoch(0))
    seen = np.concatenate([b.example for b in batches])
    assert sorted(seen.tolist()) == world.examples.of_split("train").tolist()
    assert max(len(b) for b in batches) <= 4 and max(len(b.item_row) for b in batches) <= 7
    assert len(batches) == world.loader().num_batches
    for batch in batches:
        assert len(batch.label) == len(batch.item_row) == len(batch.candidate) and len(batch.request) == len(batch)
        assert (np.diff(batch.request_of_candidate) >= 0).all() and batch.offsets[-1] == len(batch.item_row)


def test_epochs_repeat_by_seed_and_number_and_can_be_resumed(world: World) -> None:
    for a, b in zip(world.loader().epoch(3), world.loader(ahead=0).epoch(3), strict=True):
        assert_same(a, b)
    orders = [np.concatenate([b.example for b in world.loader(seed=s).epoch(e)]) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


def test_validation_comes_in_the_order_of_time(world: World) -> None:
    times = np.concatenate([b.time_ms for b in world.loader("validation")])
    assert len(times) and (np.diff(times) >= 0).all()


def test_an_error_while_encoding_surfaces_in_the_loop(world: World) -> None:
    broken = replace(world.examples, context={"device": [object()] * len(world.examples)})
    with pytest.raises(ValueError, match=r"\$\.context\.device"):
        list(world.loader(examples=broken).epoch(0))


def test_only_training_sees_the_positions_at_which_candidates_were_shown(world: World) -> None:
    place = next(slot for slot in world.encoder.layout.candidate.ids if slot.feature == "place")
    for split in ("train", "validation", "test"):
        found = np.concatenate([batch.candidate.ids[:, place.start] for batch in world.loader(split)])
        recorded = np.concatenate([batch.position for batch in world.loader(split)])
        assert (recorded >= 0).any(), "a split without positions would prove nothing"
        assert (found > 0).any() == (split == "train")


def test_a_batch_equals_what_serving_encodes_bit_for_bit(world: World) -> None:
    """Serving encodes one request at a time, from the log itself, as the engine does."""
    spec, encoder, raw = world.spec, world.encoder, world.raw
    assert raw.users is not None
    codes = HistoryCodes(world.log, raw.items, spec.history_actions)
    for split in ("train", "validation", "test"):
        for batch in world.loader(split):
            for r, (start, stop) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
                user, at = [batch.user[r]], batch.time_ms[r : r + 1]
                context = {name: [values[r]] for name, values in batch.context.items()}
                events = world.log.histories(user, at, spec.history_events, spec.history_actions)
                history = encoder.encode_history(events, codes, at, spec.history.length)
                rows = raw.users.row_of(user)
                request = encoder.encode_requests(user, rows, context, at, raw.users, world.counters, history)
                np.testing.assert_array_equal(request.ids[0], batch.request.ids[r])
                np.testing.assert_array_equal(request.floats[0], batch.request.floats[r])
                length = int(history.length[0])
                assert length == batch.history.length[r]
                for name in ("rows", "actions", "gaps", "ages"):
                    served, trained = getattr(history, name)[0, :length], getattr(batch.history, name)[r, :length]
                    np.testing.assert_array_equal(served, trained, err_msg=name)
                    assert not getattr(batch.history, name)[r, length:].any()
                ids = raw.items.ids_of(batch.item_row[start:stop])
                candidate = encoder.encode_candidates(
                    raw.items.row_of(ids),
                    np.zeros(stop - start, dtype=np.int64),
                    user,
                    at,
                    {"price": [None if np.isnan(p) else float(p) for p in batch.columns["price"][start:stop]]},
                    world.counters,
                    raw.items,
                    batch.position[start:stop] if split == "train" else None,
                )
                np.testing.assert_array_equal(candidate.ids, batch.candidate.ids[start:stop])
                np.testing.assert_array_equal(candidate.floats, batch.candidate.floats[start:stop])


def test_events_after_a_request_never_change_its_batch(world: World) -> None:
    before = list(world.loader().epoch(0))
    newest = max(int(b.time_ms.max()) for b in before)
    late = EventBatch(
        user=["u1", "u2"],
        item=["10", "11"],
        action=["click", "click"],
        time_ms=np.array([T0, newest + MINUTE], dtype=np.int64),  # one is of long ago, and arrives only now
        appended_ms=np.array([newest + MINUTE] * 2, dtype=np.int64),
    )
    world.log.import_events(late)
    counters = Counters.rebuild(world.spec, world.log, world.raw.items, world.raw.users)
    for a, b in zip(before, world.loader(counters=counters).epoch(0), strict=True):
        assert_same(a, b)


def test_an_event_before_a_request_does_change_its_batch(world: World) -> None:
    before = list(world.loader().epoch(0))
    early = EventBatch(["u1"], ["10"], ["click"], np.array([T0 - MINUTE], dtype=np.int64))
    world.log.import_events(early)
    after = list(world.loader().epoch(0))
    assert any(not np.array_equal(a.history.length, b.history.length) for a, b in zip(before, after, strict=True))


def test_later_splits_do_not_change_what_training_sees(small: Make, tmp_path: Path) -> None:
    """Vocabularies, statistics and batches of the training split are those of a file without the later periods."""
    with EventLog.open(f"lmdb:{tmp_path}/whole", durable=False) as log:
        whole = world_of(small(COUNTERS), log)
        train_ms = whole.examples.time_ms[whole.examples.of_split("train")].max() + 3 * MINUTE
        cut = impressions().filter(pl.col("time_ms") < train_ms)
        changed = pl.concat(
            [
                cut,
                impressions()
                .filter(pl.col("time_ms") >= train_ms)
                .with_columns(pl.col("price") * 1e6, device=pl.lit("new"), is_click=1 - pl.col("is_click")),
            ]
        )
        with EventLog.open(f"lmdb:{tmp_path}/other", durable=False) as other_log:
            other = world_of(small(COUNTERS, impressions=changed), other_log)
            assert len(other.examples) >= len(whole.examples) - 4
            for a, b in zip(whole.loader().epoch(0), other.loader().epoch(0), strict=True):
                assert_same(a, b)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_histories_in_memory_equal_the_log(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 3), st.integers(0, 5), st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 9)
            ),
            max_size=40,
        )
    )
    asked = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 32)), min_size=1, max_size=20))
    limit = data.draw(st.integers(1, 8))
    with EventLog.open(f"lmdb:{tmp_path_factory.mktemp('log')}", durable=False) as log:
        if rows:
            time_ms = np.array([T0 + r[3] for r in rows], dtype=np.int64)
            log.import_events(
                EventBatch(
                    [f"u{r[0]}" for r in rows],
                    [f"i{r[1]}" for r in rows],
                    [r[2] for r in rows],
                    time_ms,
                    appended_ms=time_ms + np.array([r[4] // 6 * r[4] for r in rows], dtype=np.int64),
                )
            )
        users = [f"u{u}" for u, _ in asked]
        as_of = np.array([T0 + t for _, t in asked], dtype=np.int64)
        expected = log.histories(users, as_of, limit, ["a", "b"])
        got = HistoriesInMemory(log, users, ["a", "b"]).histories(users, as_of, limit)
        for name in ("offsets", "item_code", "action_code", "time_ms", "appended_ms", "log_position"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


def test_requests_of_few_candidates_come_in_larger_batches_where_the_spec_says_nothing() -> None:
    usual = [usual_requests(np.full(9, count)) for count in (1, 2, 4, 30)]
    assert usual == [512, 256, 128, 128]
    assert usual_requests(np.zeros(0, np.int64)) == 512


def test_a_small_log_has_steps_of_fewer_candidates_and_a_large_one_not() -> None:
    usual = [usual_candidates(np.full(requests, 30)) for requests in (0, 100, 8_000, 100_000)]
    assert usual == [1_024, 1_024, 1_875, 4_096]

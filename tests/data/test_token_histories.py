"""Shared sequences: each request reads of them exactly the history that it would be given by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from depthrank.catalogue import Catalogue
from depthrank.data.histories_in_memory import HistoriesInMemory
from depthrank.data.token_histories import TokenHistories
from depthrank.events import EventBatch, EventLog
from depthrank.features import HistoryCodes
from depthrank.features.history import encode_history

ACTIONS = ("click", "like")
LENGTH = 6
LIMIT = (LENGTH + 1) * len(ACTIONS)
T0 = 1_700_000_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("logs")


event = st.tuples(
    st.integers(0, 2),  # user
    st.integers(0, 4),  # item
    st.sampled_from(ACTIONS),
    st.integers(0, 40),  # time
    st.sampled_from([0, 0, 0, 7]),  # how late it arrived
    st.sampled_from([1, 1, 1, 9]),  # how often it is repeated
)
numbers = iter(range(1_000_000))


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    events=st.lists(event, max_size=120), asked=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 45)), max_size=12)
)
def test_shared_sequences_equal_histories_encoded_one_by_one(
    folder: Path, events: list[tuple[int, int, str, int, int, int]], asked: list[tuple[int, int]]
) -> None:
    rows = [e[:5] for e in sorted(events, key=lambda e: e[3] + e[4]) for _ in range(e[5])]
    users = [f"u{u}" for u, _ in asked]
    at = np.array([T0 + 997 * t for _, t in asked], dtype=np.int64)
    items = Catalogue.build("item", [f"i{i}" for i in range(4)], {})  # one item of the log is unknown
    with EventLog.open(f"lmdb:{folder}/{next(numbers)}", durable=False) as log:
        if rows:
            log.append(
                EventBatch(
                    user=[f"u{u}" for u, *_ in rows],
                    item=[f"i{i}" for _, i, *_ in rows],
                    action=[a for _, _, a, _, _ in rows],
                    time_ms=np.array([T0 + 997 * t for *_, t, _ in rows], dtype=np.int64),
                    appended_ms=np.array([T0 + 997 * (t + late) for *_, t, late in rows], dtype=np.int64),
                )
            )
        codes = HistoryCodes(log, items, ACTIONS)
        memory = HistoriesInMemory(log, ["u0", "u1", "u2"], ACTIONS)
        shared = TokenHistories(memory, codes, LENGTH, LIMIT).shared(users, at)
        alone = encode_history(log.histories(users, at, LIMIT, ACTIONS), codes, at, LENGTH)
    np.testing.assert_array_equal(shared.length, alone.length)
    ages = shared.ages(np.arange(len(users)), at)
    for r, length in enumerate(alone.length.tolist()):
        s = shared.sequence_of_request[r]
        for name in ("rows", "actions", "gaps"):
            np.testing.assert_array_equal(getattr(shared.sequences, name)[s, :length], getattr(alone, name)[r, :length])
        np.testing.assert_array_equal(ages[r, :length], alone.ages[r, :length])
        assert not ages[r, length:].any()


def test_requests_of_a_user_between_two_anchors_share_one_sequence(folder: Path) -> None:
    times = T0 + 60_000 * np.arange(40, dtype=np.int64)
    items = Catalogue.build("item", ["i"], {})
    with EventLog.open(f"lmdb:{folder}/one", durable=False) as log:
        log.append(
            EventBatch(user=["u"] * 40, item=["i"] * 40, action=["click"] * 40, time_ms=times, appended_ms=times)
        )
        memory = HistoriesInMemory(log, ["u"], ["click"])
        shared = TokenHistories(memory, HistoryCodes(log, items, ["click"]), 8, 9).shared(["u"] * 40, times)
    assert shared.length.tolist()[:9] == list(range(9)), "the first requests read growing prefixes"
    assert len(shared.sequences) < 20 and (shared.sequences.length <= 8).all()


def test_windows_that_may_be_cut_share_more_and_stay_suffixes_of_their_own(folder: Path) -> None:
    times = T0 + 60_000 * np.arange(200, dtype=np.int64)
    items = Catalogue.build("item", [f"i{i}" for i in range(200)], {})
    ids = [f"i{i}" for i in range(200)]
    users = [f"u{i // 150}" for i in range(200)]
    with EventLog.open(f"lmdb:{folder}/cut", durable=False) as log:
        log.append(EventBatch(user=users, item=ids, action=["click"] * 200, time_ms=times, appended_ms=times))
        memory = HistoriesInMemory(log, ["u0", "u1"], ["click"])
        codes = HistoryCodes(log, items, ["click"])
        exact = TokenHistories(memory, codes, 32, 33).shared(users, times)
        cut = TokenHistories(memory, codes, 32, 33, min_length=8).shared(users, times)
    assert len(cut.sequences) < 0.75 * len(exact.sequences)
    for r in range(200):
        own, less = int(exact.length[r]), int(cut.length[r])
        assert min(own, 8) <= less <= own
        whole = exact.sequences.rows[exact.sequence_of_request[r], :own]
        np.testing.assert_array_equal(cut.sequences.rows[cut.sequence_of_request[r], :less], whole[own - less :])

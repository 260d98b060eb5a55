"""Catalogue upserts while serving: visible at once, durable, applied in the order of the log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from asking import IDS, ask, one_event, shown
from hypothesis import given
from hypothesis import strategies as st

from depthrank.catalogue import Catalogue
from depthrank.engine.upserts import pack_upsert, replay_upserts, unpack_upsert
from depthrank.errors import LogError, RequestError, StorageFullError


def state(items: Catalogue) -> dict[str, object]:
    """All ids and values of a catalogue of texts, as they would be saved."""
    title = items.column("title")
    return {"ids": items.ids[: items.size], "titles": [title.dictionary[c] for c in title.codes.tolist()]}


def test_an_upserted_item_is_ranked_by_what_is_known_of_it_from_the_next_request_on(make_ranker):
    ranker = make_ranker()
    before = {i.item: i.value for i in ranker.rank(ask(candidates=["new", "i1"])).items}
    result = ranker.upsert_items({"item": ["new"], "genre": ["noir"], "title": ["noir number 99"]})
    assert (result.inserted, result.updated, result.generation) == (1, 0, 1)
    after = {i.item: i.value for i in ranker.rank(ask(candidates=["new", "i1"])).items}
    assert after["new"] != before["new"] and after["i1"] == pytest.approx(before["i1"], rel=1e-5)
    assert "new" in {i.item for i in ranker.rank(ask(candidates="all")).items}
    ranker.append(one_event("u1", "new", "click", ranker.clock_ms[0]))
    assert ranker.rank(ask(explain=True)).explain["items"][0]["because"] is not None


def test_an_upsert_survives_a_restart(make_ranker):
    ranker = make_ranker()
    ranker.upsert_items({"item": ["new", "i3"], "genre": ["noir", "western"], "title": ["a", None]})
    ranker.upsert_items({"item": ["new"], "title": ["b"]})
    wanted = ask(candidates=[*IDS[:6], "new"], time_ms=1_790_000_000_000)
    before = {item.item: item.value for item in ranker.rank(wanted).items}
    ranker.close()
    again = make_ranker()
    assert state(again.items) == state(ranker.items) and again.items.size == 82
    after = {item.item: item.value for item in again.rank(wanted).items}
    assert after == pytest.approx(before, rel=1e-5), "items are encoded in other groups, so to rounding"


KILLED = """
import sys, numpy as np
from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
ranker = Ranker.load(sys.argv[1], sys.argv[2])
for n in range(10**6):
    ranker.upsert_items({"item": [f"new{n}"], "genre": ["noir"], "title": [f"title {n}"]})
    print(n, flush=True)
"""


def test_kill_minus_nine_loses_no_acknowledged_upsert(make_ranker, world):
    ranker = make_ranker()
    url = ranker.log.url
    ranker.close()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(world.artifact), url],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [process.stdout.readline() for _ in range(15)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    acknowledged = max(int(line) for line in lines if line.endswith("\n"))
    items = make_ranker().items
    assert acknowledged >= 14 and (items.row_of([f"new{n}" for n in range(acknowledged + 1)]) > 0).all()


def test_a_refused_upsert_is_in_neither_the_log_nor_the_catalogue(make_ranker):
    ranker = make_ranker()
    for columns, message in (
        ({"item": ["x"], "genres": ["noir"]}, r"\$\.genres.*did you mean 'genre'"),
        ({"item": ["x"], "genre": [["a"]]}, r"\$\.genre\[0\]"),
        ({"item": ["x", None]}, r"\$\.item\[1\]"),
        ({"item": ["x\ud800"]}, "Unicode"),
    ):
        with pytest.raises(RequestError, match=message):
            ranker.upsert_items(columns)
    assert list(ranker.log.upserts()) == [] and ranker.items.size == 81 and ranker.items.generation == 0
    ranker.upsert_items({"item": ["x"]})
    assert len(list(ranker.log.upserts())) == 1 and ranker.items.size == 82


def test_an_upsert_that_cannot_be_logged_changes_nothing(make_ranker, monkeypatch):
    ranker = make_ranker()

    def full(payload: bytes) -> int:
        raise StorageFullError("the disk is full")

    monkeypatch.setattr(ranker.log, "append_upsert", full)
    with pytest.raises(StorageFullError):
        ranker.upsert_items({"item": ["x"], "genre": ["noir"]})
    assert ranker.items.size == 81 and ranker.items.row_of(["x"]).tolist() == [0]


def test_concurrent_upserts_are_logged_in_the_order_they_are_applied(make_ranker):
    ranker = make_ranker()

    def work(thread: int) -> None:
        for n in range(15):
            ranker.upsert_items({"item": ["contested", f"own{thread}"], "title": [f"{thread}-{n}"] * 2})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = state(ranker.items)
    ranker.close()
    assert state(make_ranker().items) == live


def test_an_item_in_the_catalogue_that_is_not_encoded_yet_is_the_unknown_item(make_ranker):
    """Between the catalogue's change and the item store's, and for history and candidates alike."""
    ranker = make_ranker()
    ranker.append(one_event("u1", "brand new", "click", ranker.clock_ms[0]))
    wanted = ask(candidates=["brand new", "never seen", "i1"], time_ms=ranker.clock_ms[0] + 10)
    before = ranker.rank(wanted)
    ranker.items.upsert({"item": ["brand new"], "genre": ["noir"]})  # the store is not told
    between = ranker.rank(wanted)
    assert [i[:2] for i in shown(between)] == [i[:2] for i in shown(before)] and not between.degraded.is_
    assert [i.value for i in between.items] == pytest.approx([i.value for i in before.items], rel=1e-5)
    ranker.upsert_items({"item": ["another"]})
    assert ranker.generation.store.size == ranker.items.size


def test_rows_the_item_store_does_not_hold_read_as_row_0(make_ranker):
    store = make_ranker().generation.store
    unknown, last, *beyond = store.gather(np.array([0, 80, 81, 10_000])).vector_UD
    assert all((vector == unknown).all() for vector in beyond) and not (last == unknown).all()


def small_catalogue() -> Catalogue:
    return Catalogue.build("item", ["a"], {"price": [1.0], "title": ["t"], "tags": [["x"]], "image": [[1.0, 2.0]]})


numbers = st.one_of(st.none(), st.integers(), st.floats(), st.integers(2**63, 2**200))
texts = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])), numbers)


@given(st.lists(st.tuples(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers()), numbers, texts)))
def test_a_packed_upsert_does_what_the_upsert_did(rows):
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("item", "price", "title"))}
    direct, packed = small_catalogue(), small_catalogue()
    direct.upsert(columns)
    packed.upsert(unpack_upsert(pack_upsert(columns)))
    assert direct.ids == packed.ids
    for name in ("price", "title"):
        one, other = direct.column(name), packed.column(name)
        if name == "price":
            assert np.array_equal(one.values, other.values) and np.array_equal(one.missing, other.missing)
        else:
            assert one.codes.tolist() == other.codes.tolist() and one.dictionary == other.dictionary


def test_arrays_of_numpy_and_arrow_are_packed_as_values():
    columns = {
        "item": np.array(["a", "b"]),
        "price": pa.array([1.5, None]),
        "tags": [np.array(["x", "y"]), ("z",)],
        "image": np.ones((2, 2), np.float32),
    }
    assert unpack_upsert(pack_upsert(columns)) == {
        "item": ["a", "b"],
        "price": [1.5, None],
        "tags": [["x", "y"], ["z"]],
        "image": [[1.0, 1.0], [1.0, 1.0]],
    }


class LogOf:
    def __init__(self, *payloads: bytes) -> None:
        self.payloads = payloads

    def upserts(self, after: int = -1):
        return enumerate(self.payloads)


def test_an_upsert_of_an_earlier_catalogue_is_applied_as_far_as_it_fits():
    log = LogOf(
        pack_upsert({"item": ["a"], "price": [3.0], "a column that was dropped": [1]}),
        pack_upsert({"item": ["b"], "image": [["no", "numbers"]]}),
        pack_upsert({"item": ["c"], "title": ["last"]}),
    )
    items = small_catalogue()
    replay = replay_upserts(items, log)
    assert (replay.applied, replay.refused) == (2, 1)
    assert items.ids == ["", "a", "c"] and items.column("price").values[1] == 3.0


def test_bytes_that_are_no_upsert_are_one_clear_error():
    for payload in (b"\xc1", b"\x93\x01\x02\x03", pack_upsert({"item": [1]})[:-1]):
        with pytest.raises(LogError, match="an upsert in the event log is damaged"):
            replay_upserts(small_catalogue(), LogOf(payload))

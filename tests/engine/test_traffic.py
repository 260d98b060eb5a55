"""The system's own traffic: served impressions, clicks that join them, and training from both."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import pytest
import torch
from asking import IDS, ask, one_event

from depthrank.data import examples_from_log, load_dataset
from depthrank.engine import Ranker
from depthrank.events import now_ms, open_log
from depthrank.schema import Spec
from depthrank.training import train


def test_what_was_shown_is_logged_as_it_was_decided(make_ranker):
    ranker = make_ranker()
    wanted = ask(candidates=IDS[:6], top=3, time_ms=ranker.clock_ms[0] - 500)
    answer = ranker.rank(wanted)
    before = ranker.log.position()
    assert ranker.record_served(wanted, answer).appended == 3
    assert ranker.record_served(wanted, answer).duplicates == 3, "recording an answer again is a no-op"
    (events,) = ranker.log.scan(after=before)
    assert events.item == [i.item for i in answer.items] and set(events.action) == {"impression"}
    assert events.time_ms.tolist() == [ranker.clock_ms[0] - 500] * 3, "the time the features were computed as of"
    assert set(events.request_id) == {answer.request_id} and events.position.tolist() == [0, 1, 2]
    told = msgspec.msgpack.decode(events.extra[0])
    assert told["context"] == {"device": "ios"} and told["model"] == ranker.model_id and told["level"] == 1
    asked = dict(zip(wanted.candidates["item"], wanted.candidates["price"], strict=True))
    assert told["candidate"] == {"price": asked[events.item[0]]}


def test_a_click_joins_the_impression_of_its_request(make_ranker, world):
    ranker = make_ranker()
    answer = ranker.rank(ask("u3", top=4))
    ranker.record_served(ask("u3", top=4), answer)
    clicked = answer.items[2].item
    ranker.clock_ms[0] += 5_000
    ranker.append(one_event("u3", clicked, "click", ranker.clock_ms[0], request_id=[answer.request_id]))
    spec = Spec.load(world.spec)
    raw = load_dataset(spec)
    examples = examples_from_log(spec, ranker.log, raw, as_of_ms=ranker.clock_ms[0] + 10**8)
    assert examples.user == ["u3"] and examples.position.tolist() == [0, 1, 2, 3]
    assert examples.label.tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]
    assert raw.items.ids_of(examples.item_row) == [i.item for i in answer.items]
    assert np.isfinite(examples.candidate["price"]).all() and examples.context == {"device": ["ios"]}


@pytest.fixture
def small_world(world, tmp_path):
    """A private copy of the world's files and log, with a spec that trains for two epochs."""
    for name in ("items.parquet", "users.parquet", "impressions.parquet", "ranking.yaml"):
        shutil.copy(world.folder / name, tmp_path / name)
    shutil.copytree(world.folder / "events", tmp_path / "log")
    shutil.copytree(world.artifact, tmp_path / "artifact")
    path = tmp_path / "ranking.yaml"
    path.write_text(path.read_text().replace("epochs: 6", "epochs: 2"))
    torch.set_num_threads(1)
    return tmp_path


def test_serve_click_upsert_retrain_and_rank_again(small_world):
    """Traffic is trained on once, beside the files; clicked items rise; the new artifact knows the upserts."""
    with open_log(f"lmdb:{small_world / 'log'}") as log:
        ranker = Ranker.load(small_world / "artifact", log)
        ranker.upsert_items({"item": ["fresh"], "genre": ["noir"], "title": ["noir number 100"]})
        start_ms = now_ms() - 90_000_000
        offers = [["fresh", *IDS[n % 40 : n % 40 + 5]] for n in range(240)]
        wanted = [ask(f"u{n % 60}", offer, time_ms=start_ms + n) for n, offer in enumerate(offers)]
        before = np.mean([click_of(ranker, request) for request in wanted[:30]])
        for request in wanted:
            answer = ranker.rank(request)
            ranker.record_served(request, answer)
            served = [answer.request_id]
            log.append(one_event(str(request.user), "fresh", "click", request.time_ms + 1, request_id=served))
        events = log.stats().events
        report = train(small_world / "ranking.yaml", log=log, out=small_world / "retrained", progress=False)
        assert log.stats().events == events, "importing the files again added nothing"
        again = Ranker.load(small_world / "retrained", log)
        after = np.mean([click_of(again, request) for request in wanted[:30]])
    assert report.summary["traffic_requests"] == 240
    assert report.summary["requests"]["train"] == 588, "the files' own requests, no more"
    assert again.artifact.items.row_of(["fresh"]).tolist() == [81]
    known = again.artifact.encoder.encode_items(again.items, np.array([80, 81])).ids[:, 0]
    assert (known > 1).all(), "an item that came by upsert and was shown has an embedding of its own"
    assert after > before + 0.2


def click_of(ranker: Ranker, request: object) -> float:
    return next(i.scores["click"] for i in ranker.rank(request).items if i.item == "fresh")

"""Served impressions are logged behind the answers, and lose themselves visibly."""

from __future__ import annotations

import logging
import threading

import pytest
from live_server import Live, live_server
from ranker_double import RankerDouble
from test_server_limits import until

from depthrank.errors import StorageFullError
from depthrank.server import ServerSettings

GOOD = {"user": "u", "candidates": ["1", "2"]}


def test_what_was_shown_is_recorded_under_the_id_of_the_answer(live: Live) -> None:
    answer = live.client.post("/v1/rank", json=GOOD | {"context": {"device": "ios"}}).json()
    until(lambda: len(live.ranker.recorded) == 1)
    request, recorded = live.ranker.recorded[0]
    assert recorded.request_id == answer["request_id"]
    assert [item.item for item in recorded.items] == [item["item"] for item in answer["items"]]
    assert request.context == {"device": "ios"} and request.time_ms is not None


@pytest.mark.parametrize(("log_served", "recorded"), [(True, 1), (False, 0)])
def test_recording_can_be_turned_off_and_is_finished_at_the_end(log_served: bool, recorded: int) -> None:
    with live_server(settings=ServerSettings(log_served=log_served)) as live:
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200
    assert len(live.ranker.recorded) == recorded


def test_an_empty_answer_shows_nothing_and_records_nothing() -> None:
    with live_server() as live:
        assert live.client.post("/v1/rank", json=GOOD | {"candidates": []}).status_code == 200
    assert not live.ranker.recorded


def test_a_full_disk_loses_impressions_visibly_and_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    ranker = RankerDouble()

    def full() -> None:
        raise StorageFullError("no room")

    with live_server(ranker) as live, caplog.at_level(logging.ERROR):
        until(lambda: live.client.get("/health/ready").status_code == 200)
        ranker.record_fault = full
        assert [live.client.post("/v1/rank", json=GOOD).status_code for _ in range(3)] == [200] * 3
        until(lambda: live.metric("depthrank_served_answers_lost_total", reason="storage_full") == 3)
        assert live.client.get("/health/ready").json()["trouble"] == ["served impressions are being lost: storage_full"]
        ranker.record_fault = lambda: None
        assert live.client.post("/v1/rank", json=GOOD).status_code == 200
        until(lambda: live.metric("depthrank_served_answers_logged_total") == 1)
        assert live.client.get("/health/ready").json()["trouble"] == []
    assert sum("served impressions are being lost" in r.getMessage() for r in caplog.records) == 1


def test_a_slow_log_holds_up_no_answer_and_what_does_not_fit_is_counted() -> None:
    ranker = RankerDouble()
    release = threading.Event()
    ranker.record_fault = lambda: release.wait(20) and None
    with live_server(ranker, ServerSettings(served_queue=1)) as live:
        assert [live.client.post("/v1/rank", json=GOOD).status_code for _ in range(5)] == [200] * 5
        until(lambda: live.metric("depthrank_served_answers_lost_total", reason="queue_full") == 3)
        release.set()
    assert len(ranker.recorded) == 2

"""POST /v1/rank over a real socket."""

from __future__ import annotations

import httpx
import msgspec
import pytest
from live_server import Live, live_server
from ranker_double import RankerDouble, small_spec

from depthrank.schema import Answer


def rank(live: Live, **fields: object) -> httpx.Response:
    return live.client.post("/v1/rank", json={"user": "u", "candidates": "all", **fields})


def test_an_answer_has_the_shape_of_the_design(live: Live) -> None:
    answer = rank(live, top=3).json()
    assert answer.keys() == {
        *("request_id", "model", "items", "plan", "candidates_scored", "timings_ms", "degraded", "explain"),
    }
    assert answer["degraded"] == {"is": False, "reasons": []}
    assert [item.keys() for item in answer["items"]] == [{"item", "value", "scores", "level"}] * 3
    assert {"decode", "wait", "expert"} <= answer["timings_ms"].keys()


@pytest.mark.parametrize("candidates", [["7", 7, "8"], {"item": [7, "7", 8], "bid": [1.0, 2.0, 3.0]}])
def test_duplicates_and_integer_ids_are_ranked_as_they_came(live: Live, candidates: object) -> None:
    items = rank(live, candidates=candidates).json()["items"]
    assert sorted(item["item"] for item in items) == ["7", "7", "8"]


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_any_number_of_candidates_is_ranked(live: Live, count: int) -> None:
    answer = msgspec.json.decode(rank(live, candidates=list(range(count)), top=5).content, type=Answer)
    assert len(answer.items) == min(count, 5)
    assert answer.candidates_scored[0] == count


def test_a_million_character_id_is_ranked(live: Live) -> None:
    assert rank(live, user="x" * 1_000_000, candidates=["y" * 1_000_000]).json()["items"][0]["item"] == "y" * 1_000_000


def test_ids_of_any_script_come_back_unchanged(live: Live) -> None:
    ids = ["ключ", "鍵", "\x00", "🙂", 'q"\\', "a/b?c#d"]
    answer = rank(live, user="Ω", candidates=ids).json()
    assert sorted(item["item"] for item in answer["items"]) == sorted(ids)


def test_the_request_id_is_taken_over_returned_and_in_the_answer(live: Live) -> None:
    response = live.client.post("/v1/rank", json={"user": "u", "candidates": []}, headers={"X-Request-Id": "shop-17:3"})
    assert response.headers["X-Request-Id"] == response.json()["request_id"] == "shop-17:3"


@pytest.mark.parametrize("given", ["", "x" * 129, "has space", 'quote"'])
def test_an_unusable_request_id_is_replaced(live: Live, given: str) -> None:
    response = live.client.post("/v1/rank", json={"user": "u", "candidates": []}, headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] == response.json()["request_id"]
    assert len(response.json()["request_id"]) == 32


def test_the_engine_may_find_wrong_fields_too(live: Live) -> None:
    response = rank(live, candidates={"item": ["a", "b"], "bid": [1, None]})
    assert response.status_code == 422
    assert response.json()["error"]["problems"][0]["path"] == "$.candidates.bid[1]"


def test_an_event_changes_the_next_ranking(live: Live) -> None:
    last = rank(live, user="mover", top=40).json()["items"][-1]["item"]
    assert (
        live.client.post("/v1/events", json={"user": "mover", "item": last, "action": "like"}).json()["appended"] == 1
    )
    assert rank(live, user="mover", top=40).json()["items"][0]["item"] == last


def test_an_event_is_seen_by_a_request_of_the_same_millisecond() -> None:
    frozen = 1_790_000_000_000
    with live_server(clock=lambda: frozen) as still:
        last = rank(still, top=40).json()["items"][-1]["item"]
        still.client.post("/v1/events", json={"user": "u", "item": last, "action": "like"})
        assert rank(still).json()["items"][0]["item"] == last
        # Positive control: a request that names that millisecond itself is as of before the event.
        assert rank(still, time_ms=frozen).json()["items"][0]["item"] != last


def test_a_time_in_seconds_is_refused_unless_times_are_row_numbers(live: Live) -> None:
    response = rank(live, time_ms=1_790_000_000)
    assert response.status_code == 422
    assert "did you mean 1790000000000?" in response.json()["error"]["problems"][0]["hint"]
    with live_server(RankerDouble(spec=small_spec("order"))) as ordered:
        assert rank(ordered, time_ms=1_790_000_000).status_code == 200

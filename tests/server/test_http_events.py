"""POST /v1/events, /v1/items, and users over a real socket."""

from __future__ import annotations

import threading

import msgspec
from live_server import Live, live_server
from ranker_double import RankerDouble

from depthrank.events import now_ms


def test_one_event_is_appended_with_all_its_fields(live: Live) -> None:
    event = {"user": 5, "item": 7, "action": "click", "event_id": "one", "request_id": "r", "position": 2, "page": 3}
    answer = live.client.post("/v1/events", json=event).json()
    assert (answer["appended"], answer["duplicates"]) == (1, 0)
    batch = live.ranker.batches[-1]
    assert (batch.user, batch.item, batch.action, batch.request_id) == (["5"], ["7"], ["click"], ["r"])
    assert batch.position.tolist() == [2] and msgspec.msgpack.decode(batch.extra[0]) == {"page": 3}
    assert abs(batch.time_ms[0] - now_ms()) < 60_000


def test_a_repeated_event_is_an_ordinary_answer_that_counts_it(live: Live) -> None:
    event = {"user": "u", "item": "i", "action": "click", "event_id": "twice"}
    first, second = live.client.post("/v1/events", json=event), live.client.post("/v1/events", json=event)
    assert first.json()["log_position"] is not None
    assert second.status_code == 200
    assert second.json() == {"appended": 0, "duplicates": 1, "log_position": None}


def test_columns_of_many_are_appended_at_once_with_missing_positions_marked(live: Live) -> None:
    columns = {"user": "many", "item": list(range(1000)), "action": "click", "position": [0] * 999 + [None]}
    assert live.client.post("/v1/events", json=columns).json()["appended"] == 1000
    assert live.ranker.batches[-1].position.tolist()[-2:] == [0, -1]
    assert len(live.client.get("/v1/users/many/history?limit=2000").json()["events"]) == 1000
    assert len(live.client.get("/v1/users/many/history").json()["events"]) == 100


def test_a_body_large_enough_to_be_decoded_by_a_thread_is_decoded_the_same(live: Live) -> None:
    columns = {"user": "big", "item": ["i" * 100] * 5_000, "action": "click"}
    assert live.client.post("/v1/events", json=columns).json()["appended"] == 5_000
    assert live.client.post("/v1/events", json=columns | {"action": [""] * 5_000}).status_code == 422


def test_appends_of_several_clients_are_under_way_together() -> None:
    ranker = RankerDouble()
    both = threading.Barrier(2)
    ranker.append_fault = lambda: both.wait(20) and None
    with live_server(ranker) as live:
        event = {"user": "u", "item": "i", "action": "click"}
        other = threading.Thread(target=live.client.post, args=("/v1/events",), kwargs={"json": event})
        other.start()
        assert live.client.post("/v1/events", json=event).status_code == 200  # one alone would wait for ever
        other.join()


def test_an_upsert_is_seen_by_the_next_request(live: Live) -> None:
    answer = live.client.post("/v1/items", json={"item": [1, "fresh"], "title": ["Toy Story", "New"]}).json()
    assert (answer["inserted"], answer["updated"]) == (1, 1)
    views = live.client.get("/v1/items?ids=fresh,nowhere").json()["items"]
    assert [(v["item"], v["known"], v["columns"]["title"]) for v in views] == [
        ("fresh", True, "New"),
        ("nowhere", False, None),
    ]
    ranked = live.client.post("/v1/rank", json={"user": "u", "candidates": "all", "top": 1000}).json()["items"]
    assert "fresh" in {item["item"] for item in ranked}


def test_items_are_shown_in_the_order_asked_for_with_plain_values(live: Live) -> None:
    views = live.client.get("/v1/items", params=[("ids", "3,2"), ("id", "with,comma")]).json()["items"]
    assert [v["item"] for v in views] == ["3", "2", "with,comma"]
    assert views[0]["columns"] == {"title": "Four Rooms 1", "year": 1992, "genres": ["drama", "war"]}


def test_a_user_is_shown_and_erased_by_an_id_of_any_form(live: Live) -> None:
    for user, encoded in (("a/b", "a%2Fb"), ("é ?", "%C3%A9%20%3F"), ("history", "history"), ("100%", "100%25")):
        live.client.post("/v1/events", json={"user": user, "item": "1", "action": "click"})
        shown = live.client.get(f"/v1/users/{encoded}/history").json()
        assert shown["user"] == user and [e["item"] for e in shown["events"]] == ["1"]
        erased = live.client.delete(f"/v1/users/{encoded}").json()
        assert (erased["user"], erased["events"], erased["pending"]) == (user, 1, [])
        assert live.client.get(f"/v1/users/{encoded}/history").json()["events"] == []


def test_a_history_is_newest_first_and_may_be_of_some_actions_only(live: Live) -> None:
    for action in ("click", "like", "impression", "click"):
        live.client.post("/v1/events", json={"user": "picky", "item": action, "action": action})

    def actions(query: str) -> list[str]:
        return [e["action"] for e in live.client.get(f"/v1/users/picky/history{query}").json()["events"]]

    assert actions("") == ["click", "impression", "like", "click"]
    assert actions("?limit=2") == ["click", "impression"]
    assert actions("?actions=click,like&limit=2") == ["click", "like"]
    assert actions("?actions=nothing") == []


def test_an_unknown_user_is_an_ordinary_one(live: Live) -> None:
    assert live.client.get("/v1/users/nobody/history").json() == {"user": "nobody", "events": []}
    assert live.client.delete("/v1/users/nobody").json()["events"] == 0


def test_an_action_that_the_spec_does_not_read_is_appended_told_and_counted(live: Live) -> None:
    body = {"user": "u", "item": ["a", "b", "c"], "action": ["clik", "click", "share"]}
    answer = live.client.post("/v1/events", json=body).json()
    assert answer["appended"] == 3 and live.ranker.batches[-1].action == ["clik", "click", "share"]
    assert answer["warnings"] == [
        "$.action: 'clik' was appended, but the model reads no such action; did you mean 'click'?",
        "$.action: 'share' was appended, but the model reads no such action; it reads click, impression, like",
    ]
    assert "depthrank_events_unread_total 2.0" in live.client.get("/metrics").text


def test_actions_of_tasks_histories_counters_and_what_was_shown_are_read(live: Live) -> None:
    for action in ("click", "like", "impression"):
        answer = live.client.post("/v1/events", json={"user": "u", "item": "a", "action": action}).json()
        assert "warnings" not in answer

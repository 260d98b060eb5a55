"""GET /v1/status and /v1/status/sample: what they tell, and to whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from live_server import Live, live_server

from depthrank.routing import CostModel
from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Degraded, RankedItem, Request
from depthrank.schema.request import Spent
from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tokens import hash_of, new_token
from depthrank.server.status.live import LiveStatus, ladder
from depthrank.server.status.recent import seen_of, story_of


class Clock:
    now_s = 500.0

    def __call__(self) -> float:
        return self.now_s


def answer_of(level: int = 1, spent: Spent | None = None, reasons: tuple[str, ...] = ()) -> Answer:
    return Answer(
        "r1",
        "m1",
        [RankedItem("a", 1.0, {"click": 0.5}, level)],
        [100, 20],
        [100, 20] if level >= 0 else [0, 0],
        {"level0": 1.25, "level1": 7.5},
        Degraded(bool(reasons), list(reasons)),
        spent=msgspec.UNSET if spent is None else spent,
    )


SPENT = Spent(9.5, 8.0, 42, True, "every level of the plan has scored", ("rung 3 of 9, at price 0.01",))


def test_figures_follow_answers_and_refusals() -> None:
    clock = Clock()
    status = LiveStatus(lambda: 1_700_000_000_000, clock)
    request = Request(user="u", candidates=["a"], deadline_ms=50)
    status.answered(request, answer_of(spent=SPENT), 0.010)
    status.answered(request, answer_of(), 0.090)  # beyond its deadline
    status.answered(request, answer_of(level=-1, reasons=("deadline: none",)), 0.010)  # in input order
    status.refused(request, "no room", "r2")
    clock.now_s += 1
    plain = status.plain(None, show_users=True)
    assert plain["now"]["throughput_rps"] == 0.3 and plain["now"]["goodput_rps"] == 0.1
    assert plain["now"]["refused_rps"] == 0.1 and plain["now"]["degraded_share"] == pytest.approx(1 / 3)
    assert plain["now"]["p50_ms"] == pytest.approx(10, rel=0.1)
    assert plain["series"]["throughput_rps"][-1] == 3 and len(plain["series"]["p99_ms"]) == 60
    assert [seen["refused"] for seen in plain["recent"]] == ["no room", None, None, None]
    assert msgspec.json.encode(plain)


def test_a_story_says_what_each_level_scored_and_why_it_stopped() -> None:
    request = Request(user="u", candidates=["a"])
    lines = story_of(seen_of(request, answer_of(spent=SPENT, reasons=("budget: half",)), 0, 12.0))
    assert lines[:3] == [
        "Level 0 (the router) scored 100 in 1.2 ms.",
        "Level 1 scored 20 in 7.5 ms.",
        "Plan: rung 3 of 9, at price 0.01.",
    ]
    assert "It stopped because every level of the plan has scored." in lines
    assert "Less than asked for: budget: half." in lines
    assert any("42 events" in line and "9.5 ms of a thread; 8.0 ms were predicted" in line for line in lines)
    unscored = story_of(seen_of(request, answer_of(level=-1), 0, 1.0))
    assert unscored == ["Nothing was scored: the candidates are in input order.", "2 levels were planned, 0 ran."]


def test_the_operating_point_is_the_mean_cost_of_recent_requests_on_the_ladder() -> None:
    rates = CostModel.from_flops([(1e6, 1e5), (1e7, 1e7)]).rates()
    economy = Economy(rates, 2, 0.1, ((0.1, 0.5),), ((0.1, 0.0, (0,)), (0.5, 0.9, (10,)), (1.0, 1.0, (1 << 40,))), 100)
    full_ms = economy.full_ms(100, 42, warm=True)
    spent = Spent(1.0, full_ms * 0.3, 42, True)
    told: Any = ladder(economy, [seen_of(Request(user="u", candidates=[]), answer_of(spent=spent), 0, 1.0)])
    assert told["point"]["cost"] == pytest.approx(0.3)
    assert told["point"]["kept_gain"] == pytest.approx(0.45)
    assert ladder(economy, [])["point"] is None  # type: ignore[index]
    assert ladder(Economy(rates, 2), []) is None


def test_the_endpoint_tells_what_the_page_shows(live: Live) -> None:
    live.client.post("/v1/rank", json={"user": "somebody", "candidates": list(range(30))})
    response = live.client.get("/v1/status")
    body = response.json()
    assert response.headers["Cache-Control"] == "no-store" and len(response.content) < 40_000
    assert body["phase"] == "ready" and body["trouble"] == []
    assert {"now", "depth", "series", "ladder", "recent", "load", "cache", "models", "drift"} <= set(body)
    assert body["recent"][0]["user"] == "somebody" and body["recent"][0]["candidates_scored"] == [30, 16]
    assert body["models"][0]["labels"] == ["stable"]
    assert body["cache"]["warm"] == 3


def test_what_an_answer_cost_stays_in_the_house(live: Live) -> None:
    assert "spent" not in live.client.post("/v1/rank", json={"user": "u", "candidates": [1]}).json()


def test_users_are_named_to_admins_only() -> None:
    rank, admin = new_token(), new_token()
    grants = (
        Grant(name="rank", scopes=("rank",), sha256=hash_of(rank)),
        Grant(name="admin", scopes=("admin",), sha256=hash_of(admin)),
    )
    with live_server(settings=ServerSettings(access=AccessSettings(tokens=grants))) as live:

        def get(path: str, token: str | None) -> Any:
            return live.client.get(path, headers={} if token is None else {"Authorization": f"Bearer {token}"})

        body = {"user": "somebody", "candidates": [1]}
        live.client.post("/v1/rank", json=body, headers={"Authorization": f"Bearer {rank}"})
        assert get("/v1/status", None).status_code == 401
        assert get("/v1/status", rank).json()["recent"][0]["user"] is None
        assert "somebody" not in get("/v1/status", rank).text
        assert get("/v1/status", admin).json()["recent"][0]["user"] == "somebody"
        assert get("/v1/status/sample", rank).status_code == 403
        assert get("/v1/status/sample", admin).status_code == 200


def test_a_sample_names_users_of_the_log_and_items_from_all_over_the_catalogue(live: Live) -> None:
    live.client.post("/v1/events", json={"user": ["a", "b", "a"], "item": ["1", "2", "3"], "action": "click"})
    body = live.client.get("/v1/status/sample?users=5&items=10").json()
    assert body["users"] == ["a", "b"]
    assert len(body["items"]) == 10 and body["items"][0] == "1" and body["items"][-1] == "40"
    assert live.client.get("/v1/status/sample?items=0").json()["items"] == []
    assert live.client.get("/v1/status/sample?items=99999999").status_code == 422
    assert live.client.get("/v1/status/sample?nonsense=1").status_code == 422

"""The open-loop load: when requests leave, how latency is counted, and what the figures say."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import http, scripted_server

from depthrank.cli.load import (
    Arrivals,
    Load,
    Outcomes,
    Requests,
    Target,
    Zipf,
    figures_of,
    find_knee,
    run_load,
    trace_times,
)
from depthrank.cli.load.figures import Usage, client_warnings
from depthrank.cli.load.html_report import Shown, render_load
from depthrank.cli.load.server_cpu import cpu_s_in_metrics
from depthrank.cli.load.target import TargetError
from depthrank.errors import CapacityError

NOW = Load(warm_up_s=0.0)
PROMISED = {"offered_rps", "goodput_rps", "p50_ms", "p99_ms", "errors", "degraded", "core_s_per_1000"}


async def good(_n: int) -> bytes:
    return http()


# When requests leave


@given(rate=st.floats(0.5, 200), seconds=st.floats(0.5, 20), surge=st.floats(1, 5), seed=st.integers(0, 2**31))
def test_send_times_are_ascending_within_the_run_and_repeat_by_seed(
    rate: float, seconds: float, surge: float, seed: int
) -> None:
    times = Arrivals(rate, seconds, surge, seed).times_s()
    assert np.all(np.diff(times) >= 0)
    assert np.all((times >= 0) & (times < seconds))
    assert np.array_equal(times, Arrivals(rate, seconds, surge, seed).times_s())


def test_the_middle_third_gets_the_surge() -> None:
    times = Arrivals(rate=100, seconds=60, surge=4, seed=1).times_s()
    first, middle, last = np.histogram(times, bins=[0, 20, 40, 60])[0]
    assert 1_700 < first < 2_300 and 1_700 < last < 2_300
    assert 7_400 < middle < 8_600


def test_gaps_of_a_poisson_process_are_as_long_as_they_vary() -> None:
    gaps = np.diff(Arrivals(rate=200, seconds=60, seed=3).times_s())
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # a regular beat would have no spread


def test_a_trace_begins_at_zero_in_order_and_plays_faster_on_demand() -> None:
    assert trace_times([3_000, 1_000, 2_000], speed=2).tolist() == [0.0, 0.5, 1.0]


def test_users_come_by_zipf_popularity() -> None:
    counts = np.bincount(Zipf(1.0).draw(100, 100_000), minlength=100)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)
    alike = np.bincount(Zipf(0.0).draw(100, 100_000), minlength=100)
    assert alike.max() < 1.2 * alike.min()
    assert np.array_equal(Zipf(1.0, 5).draw(9, 50), Zipf(1.0, 5).draw(9, 50))


# How latency is counted


def test_a_server_that_stalls_is_charged_for_the_requests_that_waited() -> None:
    """One slow answer on a server that takes one request at a time: a closed loop would report one slow request."""
    turn = asyncio.Lock()

    async def answer(n: int) -> bytes:
        async with turn:
            await asyncio.sleep(0.3 if n == 1 else 0.0)
        return http()

    with scripted_server(answer) as server:
        measured = run_load(server.address, [{}], np.arange(10) * 0.01, NOW)
    waited = [ms for ms in measured.outcomes.took_ms if ms > 150]
    assert len(waited) == 10  # each was due within the first 100 ms and had to wait out the stall


def test_requests_leave_at_their_times_and_not_as_fast_as_they_can() -> None:
    with scripted_server(good) as server:
        measured = run_load(server.address, [{"user": "a"}, {"user": "b"}], np.array([0.0, 0.15, 0.3]), NOW)
        posted = [request for request in server.requests if request.startswith(b"POST")]  # the others read /metrics
        bodies = [request.rpartition(b"\r\n\r\n")[2] for request in posted]
    assert [round(at, 2) for at in measured.outcomes.due_s] == [0.0, 0.15, 0.3]
    assert bodies[2:5] == [b'{"user":"a"}', b'{"user":"b"}', b'{"user":"a"}']  # after the two first ones


def test_warm_up_is_sent_and_not_measured() -> None:
    with scripted_server(good) as server:
        measured = run_load(server.address, [{}], Arrivals(100, 0.2, seed=2), Load(warm_up_s=0.2))
        came = len(server.requests)
    assert measured.outcomes.sent == len(Arrivals(100, 0.2, seed=2).times_s())
    assert came >= measured.outcomes.sent + 10
    assert min(measured.outcomes.due_s) >= 0


def test_what_counts_as_good_late_degraded_and_failed() -> None:
    outcomes = Outcomes(limit_ms=50)
    fine = b'{"items":[{"level":1},{"level":0}],"degraded":{"is":false},"candidates_scored":[9,3]}'
    degraded = b'{"items":[{"level":-1}],"degraded":{"is":true,"reasons":["deadline: level 0 scored 1 of 9"]}}'
    outcomes.came(1.0, 1.010, 200, fine, None)
    outcomes.came(1.0, 1.060, 200, fine, None)  # beyond the limit
    outcomes.came(1.0, 1.010, 200, degraded, None)  # in input order: not good
    outcomes.came(1.0, 1.010, 503, b"{}", None)
    outcomes.came(1.0, 1.010, 0, b"", "no answer in time")
    outcomes.came(1.0, 1.010, 200, b"<html>", None)
    assert (outcomes.good, outcomes.answered, outcomes.degraded, outcomes.errors) == (1, 3, 1, 3)
    assert outcomes.failures == {"503": 1, "no answer in time": 1, "200 without a readable body": 1}
    assert outcomes.reasons == {"deadline": 1} and outcomes.scored == [18, 6]


def test_percentiles_are_exact_to_three_digits() -> None:
    outcomes = Outcomes()
    for k in range(1, 1_001):
        outcomes.came(0.0, k / 1e3, 200, b"{}", None)
    found = outcomes.percentiles_ms()
    assert found["p50_ms"] == pytest.approx(500, rel=1e-3)
    assert found["p99_ms"] == pytest.approx(990, rel=1e-3)
    assert found["max_ms"] == pytest.approx(1_000, rel=1e-3)


# Connections


def test_answers_that_never_come_are_given_up_and_counted() -> None:
    async def answer(n: int) -> bytes:
        if n >= 1:
            await asyncio.sleep(30)
        return http()

    with scripted_server(answer) as server:
        outcomes = Outcomes()
        with pytest.raises(CapacityError, match="no answer in time"):
            run_load(server.address, [{}], np.zeros(3), Load(warm_up_s=0, timeout_s=0.2)).figures()
    assert outcomes.answered == 0


@pytest.mark.parametrize("said, kind", [(None, "closed before an answer"), (b"nonsense\r\n\r\n", "not HTTP")])
def test_a_server_that_closes_or_talks_nonsense_is_an_error_of_that_kind(said: bytes | None, kind: str) -> None:
    async def answer(n: int) -> bytes | None:
        return http() if n in (0, 3) else said

    with scripted_server(answer) as server:
        times = np.array([0.0, 0.05, 0.1])
        measured = run_load(server.address, [{}], times, NOW)
    assert measured.outcomes.failures == {kind: 2}
    assert measured.outcomes.answered == 1


def test_there_are_no_more_connections_than_allowed_and_waiting_for_one_is_told() -> None:
    async def answer(_n: int) -> bytes:
        await asyncio.sleep(0.02)
        return http()

    with scripted_server(answer) as server:
        measured = run_load(server.address, [{}], np.zeros(12), Load(warm_up_s=0, connections=3))
        assert server.most_open <= 3
    assert measured.outcomes.answered == 12
    assert measured.usage.waited_for_connection >= 9
    assert any("waited for a connection" in warning for warning in measured.figures()["warnings"])


def test_a_first_request_that_is_refused_ends_the_load_with_what_the_server_said() -> None:
    async def answer(_n: int) -> bytes:
        return http(b'{"error": "unknown field"}', 422)

    with scripted_server(answer) as server, pytest.raises(CapacityError, match=r"answered 422 .*unknown field"):
        run_load(server.address, [{}], np.zeros(3), NOW)


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(CapacityError, match="no connection"):
        run_load("http://127.0.0.1:9", [{}], np.zeros(3), NOW)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "localhost"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TargetError, match="expected an address"):
        Target.of(url)


def test_a_target_knows_its_path_token_and_port() -> None:
    target = Target.of("https://example.org/score", token="t")
    assert (target.port, target.path, target.tls) == (443, "/score", True)
    assert b"Authorization: Bearer t\r\n" in target.post({})
    assert Target.of("http://[::1]:80").get("/x").startswith(b"GET /x HTTP/1.1\r\nHost: [::1]:80\r\n")


# Figures


def outcomes_of(latencies_ms: list[float], limit_ms: float | None = None) -> Outcomes:
    outcomes = Outcomes(limit_ms)
    for ms in latencies_ms:
        outcomes.left(0.0001)
        outcomes.came(0.5, 0.5 + ms / 1e3, 200, b"{}", None)
    return outcomes


def test_figures_have_the_promised_keys_and_cost_counts_answers_between_readings() -> None:
    usage = Usage()
    usage.answers = 10
    usage.server_began(2.0)
    usage.answers = 14
    usage.server_ended(2.5)
    figures = figures_of(outcomes_of([1, 2, 3, 100]), usage, seconds=2.0)
    assert set(figures) >= PROMISED
    assert figures["offered_rps"] == 2.0 and figures["goodput_rps"] == 2.0
    assert figures["core_s_per_1000"] == 125.0
    assert figures["warnings"] == []


def test_goodput_is_over_the_time_until_the_last_good_answer() -> None:
    """A backlog worked off long after the window is not a rate that the server keeps."""
    figures = figures_of(outcomes_of([7_500] * 8), Usage(), seconds=2.0)
    assert figures["goodput_rps"] == pytest.approx(1.0)
    assert figures_of(outcomes_of([7_500] * 8 + [10], limit_ms=100), Usage(), seconds=2.0)["goodput_rps"] == 0.5


def test_a_run_without_any_answer_is_a_failure_and_not_a_row_of_zeros() -> None:
    outcomes = Outcomes()
    outcomes.came(0, 1, 503, b"", None)
    with pytest.raises(CapacityError, match=r"no request was answered: {'503': 1}"):
        figures_of(outcomes, Usage(), 1.0)


def test_a_client_that_was_the_bottleneck_says_so() -> None:
    fine: dict[str, Any] = {"client_lag_p99_ms": 0.5, "p50_ms": 2.0, "client_cpu": 0.3, "waited_for_connection": 0}
    assert client_warnings(fine) == []
    assert client_warnings({**fine, "p50_ms": 100, "client_lag_p99_ms": 5}) == []  # small beside the latencies
    assert "ms late" in client_warnings({**fine, "client_lag_p99_ms": 5})[0]
    assert "bottleneck" in client_warnings({**fine, "client_cpu": 0.97})[0]


@given(capacity=st.floats(20, 5_000), first=st.floats(1, 100))
def test_the_knee_is_found_within_a_sixth_of_the_capacity(capacity: float, first: float) -> None:
    def server(rate: float) -> dict[str, Any]:
        overloaded = rate > capacity
        return {
            "offered_rps": rate,
            "goodput_rps": capacity / 2 if overloaded else rate,
            "p99_ms": 900 if overloaded else 20,
            "limit_ms": 100,
        }

    best, steps = find_knee(server, first)
    rates = [step["rate"] for step in steps]
    assert rates == sorted(rates)
    assert all(step["held"] == (step["rate"] <= capacity) for step in steps)
    if first <= capacity:
        assert best is not None and capacity / 1.17 <= best["rate"] <= capacity


def test_a_server_that_never_gives_way_is_no_knee() -> None:
    def endless(rate: float) -> dict[str, Any]:
        return {"offered_rps": rate, "goodput_rps": rate, "p99_ms": 1, "limit_ms": None}

    with pytest.raises(CapacityError, match="start with a higher --rate"):
        find_knee(endless, 1.0)


def test_cpu_seconds_prefer_those_of_all_processes() -> None:
    text = b"# HELP x\nprocess_cpu_seconds_total 3.5\n"
    assert cpu_s_in_metrics(text) == 3.5
    assert cpu_s_in_metrics(text + b"depthrank_cpu_seconds_total 9.25\n") == 9.25
    assert cpu_s_in_metrics(b"up 1\n") is None


def test_the_page_holds_plots_of_every_step_and_escapes_what_a_server_said() -> None:
    outcomes = outcomes_of([1, 2, 3, 250], limit_ms=100)
    figures = {**figures_of(outcomes, Usage(), 1.0), "warnings": ["<b>slow</b>"]}
    shown = [Shown("10/s", figures, outcomes), Shown("<i>20/s</i>", figures, outcomes)]
    page = render_load("Load on <x>", {"requests": "<script>alert(1)</script>"}, shown)
    assert "<script>alert" not in page and "<i>20" not in page and "<b>slow" not in page
    for title in ("Goodput and p99", "Latency by percentile", "Over time"):
        assert title in page


def test_requests_go_round_without_zipf_and_by_popularity_with_it() -> None:
    bodies = [{"user": str(k)} for k in range(3)]
    assert Requests(bodies).order(5).tolist() == [0, 1, 2, 0, 1]
    assert np.bincount(Requests(bodies, Zipf(2.0)).order(3_000)).argmax() == 0

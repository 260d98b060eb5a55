"""The open-loop load: when requests leave, and how latency is counted."""

from __future__ import annotations

import asyncio
import time

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.cli.load import Arrivals, Outcomes, _figures, _offer
from depthrank.errors import CapacityError


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


def test_a_server_that_stalls_is_charged_for_the_requests_that_waited() -> None:
    """One slow answer on a server that takes one request at a time: a closed loop would report one slow request."""
    answered = asyncio.Lock()
    first = True

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal first
        stall, first = (0.3 if first else 0.0), False
        async with answered:
            await asyncio.sleep(stall)
        return httpx.Response(200, json={"items": [{"level": 1}], "degraded": {"is": False}})

    async def run() -> Outcomes:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as client:
            outcomes, _ = await _offer(client, [{}], np.arange(10) * 0.01, None)
        return outcomes

    outcomes = asyncio.run(run())
    waited = [ms for ms in outcomes.latency_ms if ms > 150]
    assert len(waited) == 10  # each was due within the first 100 ms and had to wait out the stall


def test_what_counts_as_good_degraded_and_failed() -> None:
    replies = iter(
        [
            httpx.Response(200, json={"items": [{"level": 1}, {"level": 0}], "degraded": {"is": False}}),
            httpx.Response(200, json={"items": [{"level": -1}], "degraded": {"is": True}}),
            httpx.Response(503),
        ]
    )

    async def run() -> Outcomes:
        transport = httpx.MockTransport(lambda _: next(replies))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            outcomes, _ = await _offer(client, [{}], np.zeros(3), 10_000)
        return outcomes

    outcomes = asyncio.run(run())
    assert (outcomes.good, outcomes.degraded, outcomes.failures) == (1, 1, {"503": 1})


def test_figures_have_the_promised_keys_and_goodput_counts_the_whole_wall_time() -> None:
    outcomes = Outcomes(latency_ms=[1.0, 2.0, 3.0, 100.0], lag_ms=[0.1] * 5, good=3, degraded=1, failures={"503": 1})
    figures = _figures(outcomes, wall_s=4.0, seconds=2.0, cpu_s=0.5)
    promised = {"offered_rps", "goodput_rps", "p50_ms", "p99_ms", "errors", "degraded", "core_s_per_1000"}
    assert promised <= set(figures)
    assert figures["offered_rps"] == 2.5
    assert figures["goodput_rps"] == 0.75
    assert figures["p50_ms"] == 2.5
    assert figures["errors"] == 1
    assert figures["core_s_per_1000"] == 125.0


def test_a_run_without_any_answer_is_a_failure_and_not_a_row_of_zeros() -> None:
    with pytest.raises(CapacityError, match=r"no request was answered: {'ConnectError': 3}"):
        _figures(Outcomes(lag_ms=[0.0] * 3, failures={"ConnectError": 3}), 1.0, 1.0, None)


def test_the_clock_of_the_loop_is_the_wall_clock() -> None:
    """Requests leave at their times, not as fast as they can."""

    async def run() -> float:
        transport = httpx.MockTransport(lambda _: httpx.Response(503))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            started = time.perf_counter()
            await _offer(client, [{}], np.array([0.0, 0.2]), None)
            return time.perf_counter() - started

    assert asyncio.run(run()) >= 0.2

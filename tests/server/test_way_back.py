"""How long answers take to leave is kept free before each deadline."""

from __future__ import annotations

import time

import pytest
from ranker_double import RankerDouble

from depthrank.schema import Request
from depthrank.server.admission.claim import Claim
from depthrank.server.admission.dispatcher import RESERVE_SHARE, Dispatcher
from depthrank.server.admission.settings import AdmissionSettings
from depthrank.server.admission.way_back import WayBack
from depthrank.server.workers.engines import ThreadEngines

DEADLINE_MS = 30_000.0


def test_the_reserve_follows_the_way_back_both_ways_and_its_spread() -> None:
    steady, uneven = WayBack(), WayBack()
    assert steady.reserve_ms == 0
    for k in range(400):
        steady.observed(4.0)
        uneven.observed(8.0 * (k % 2))
    assert steady.reserve_ms == pytest.approx(2 * 4.0, rel=0.01)
    assert uneven.mean_ms == pytest.approx(4.0, rel=0.1) and uneven.reserve_ms > 2 * steady.reserve_ms


def reserve_ms(dispatcher: Dispatcher, ranker: RankerDouble) -> float:
    """What is kept free before the deadline of a request that comes now."""
    request = Request(user="u", candidates=["1", "2"], deadline_ms=DEADLINE_MS, time_ms=1)
    answer = dispatcher.submit(ranker, request, "r", time.perf_counter())
    (claim,) = dispatcher.desk.lanes[0].running
    ranker.gate.set()
    answer.result(30)
    ranker.gate.clear()
    assert isinstance(claim, Claim)
    return (claim.deadline_s - claim.latest_s) * 1e3


def test_requests_are_planned_to_end_so_much_earlier_but_never_by_more_than_a_share() -> None:
    ranker = RankerDouble()
    ranker.gate.clear()
    settings = AdmissionSettings()
    dispatcher = Dispatcher(ThreadEngines(1), settings, 10, lambda: 0)
    try:
        assert reserve_ms(dispatcher, ranker) == pytest.approx(settings.reserve_ms)
        for _ in range(400):
            dispatcher.way_back.observed(100.0)
        assert reserve_ms(dispatcher, ranker) == pytest.approx(200.0, rel=0.01)
        assert dispatcher.status()["reserve_ms"] == pytest.approx(200.0, rel=0.01)
        for _ in range(400):
            dispatcher.way_back.observed(20_000.0)
        assert reserve_ms(dispatcher, ranker) == pytest.approx(RESERVE_SHARE * DEADLINE_MS)
    finally:
        ranker.gate.set()
        dispatcher.close()

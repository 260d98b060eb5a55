"""Token buckets under a clock of the test's own, and what a client sees of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import live_server

from depthrank.server import ServerSettings
from depthrank.server.access.quotas import QuotaError, Quotas
from depthrank.server.access.settings import AccessSettings, Gate, Grant, QuotaRates, QuotaSettings
from depthrank.server.access.tokens import hash_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def quotas(clock: Clock, gate: Gate = "enforce", **rates: float) -> Quotas:
    return Quotas(QuotaSettings(gate=gate, default=QuotaRates(**rates), burst_s=2.0), clock)


def test_a_quiet_client_may_use_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    q = quotas(clock, requests_per_s=5.0)
    for _ in range(10):
        q.charge_request("a")
    with pytest.raises(QuotaError, match="5 requests a second") as caught:
        q.charge_request("a")
    assert caught.value.retry_after_s == 1
    q.charge_request("b")  # another client has its own
    clock.now_s += 0.2
    q.charge_request("a")
    with pytest.raises(QuotaError):
        q.charge_request("a")


def test_one_large_request_passes_and_is_paid_for_afterwards() -> None:
    clock = Clock()
    q = quotas(clock, candidates_per_s=100.0)
    q.charge_candidates("a", 1_200)  # the bucket held 200
    with pytest.raises(QuotaError) as caught:
        q.charge_candidates("a", 1)
    assert caught.value.retry_after_s == 11
    clock.now_s += 10.0
    with pytest.raises(QuotaError):
        q.charge_candidates("a", 1)
    clock.now_s += caught.value.retry_after_s - 10
    q.charge_candidates("a", 1)


def test_a_clock_that_steps_back_gives_nothing_and_locks_nobody_out() -> None:
    clock = Clock()
    q = quotas(clock, requests_per_s=1.0)
    q.charge_request("a")
    q.charge_request("a")
    clock.now_s -= 1_000.0
    with pytest.raises(QuotaError):
        q.charge_request("a")
    clock.now_s += 1.0
    q.charge_request("a")


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200), st.floats(0.5, 50.0))
def test_what_is_let_in_never_exceeds_rate_times_time_plus_burst(gaps_s: list[float], rate: float) -> None:
    clock = Clock()
    q, let_in = quotas(clock, requests_per_s=rate), 0
    for gap_s in gaps_s:
        clock.now_s += gap_s
        try:
            q.charge_request("a")
            let_in += 1
        except QuotaError as error:
            assert error.retry_after_s >= 1
    assert let_in <= max(1.0, 2.0 * rate) + rate * sum(gaps_s) + 1e-6


@pytest.mark.parametrize("gate", ["dry_run", "off"])
def test_a_gate_that_does_not_enforce_refuses_nobody(gate: Gate) -> None:
    q = quotas(Clock(), gate, requests_per_s=1.0)
    for _ in range(10):
        q.charge_request("a")


def test_addresses_without_end_do_not_grow_the_memory() -> None:
    q = Quotas(QuotaSettings(default=QuotaRates(requests_per_s=1.0), max_clients=10), Clock())
    for i in range(1_000):
        q.charge_request(f"address:{i}")
    assert len(q._clients) == 10


def test_a_client_beyond_its_quota_gets_a_429_that_says_when_and_others_go_on() -> None:
    access = AccessSettings(
        tokens=tuple(Grant(name=n, scopes=("rank",), sha256=hash_of(n)) for n in ("small", "large")),
        quotas=QuotaSettings(tokens={"small": QuotaRates(candidates_per_s=0.01)}),
    )
    body = {"user": "u", "candidates": ["1", "2"]}
    with live_server(settings=ServerSettings(access=access)) as live:

        def status(name: str) -> int:
            response = live.client.post("/v1/rank", json=body, headers={"Authorization": f"Bearer {name}"})
            if response.status_code == 429:
                assert int(response.headers["Retry-After"]) > 1
                assert response.json()["error"]["type"] == "quota_exceeded"
            return response.status_code

        assert [status("small"), status("small"), status("large"), status("large")] == [200, 429, 200, 200]
        assert live.metric("depthrank_quota_refused_total", quota="candidates", gate="enforce") == 1
    assert len(live.ranker.ranked) == 3

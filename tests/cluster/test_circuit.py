"""A shard that failed is left alone for a while, then tried by one request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from depthrank.cluster import Circuit


def test_a_circuit_opens_rests_tries_once_and_closes():
    now_s = [0.0]
    circuit = Circuit(lambda: now_s[0], failures=2, open_s=5.0)
    circuit.failed()
    assert circuit.state == "closed" and circuit.allows()
    circuit.failed()
    assert circuit.state == "open" and not circuit.allows()
    now_s[0] = 5.0
    assert circuit.state == "half-open" and circuit.allows()
    assert not circuit.allows(), "one request tries it"
    circuit.failed()
    assert circuit.state == "open" and not circuit.allows()
    now_s[0] = 10.0
    assert circuit.allows()
    circuit.succeeded()
    assert circuit.state == "closed" and circuit.allows()


def test_a_success_in_between_starts_the_count_anew():
    circuit = Circuit(lambda: 0.0, failures=2)
    for _ in range(3):
        circuit.failed()
        circuit.succeeded()
    assert circuit.state == "closed"


@given(st.lists(st.sampled_from(["ok", "fail", "wait"]), max_size=40))
def test_whatever_happens_a_shard_is_tried_again_after_the_rest(steps):
    now_s = [0.0]
    circuit = Circuit(lambda: now_s[0], failures=3, open_s=1.0)
    for step in steps:
        if step == "wait":
            now_s[0] += 0.5
        elif circuit.allows():
            circuit.succeeded() if step == "ok" else circuit.failed()
    now_s[0] += 1.0
    assert circuit.allows()

"""The adaptive policy in the engine: what it decides is run, told and replayed; limits win; modes stay as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from asking import IDS, ask, one_event, shown

from depthrank.artifact import Artifact, load_artifact
from depthrank.engine import Ranker
from depthrank.engine.costs import USER, CostMeter
from depthrank.engine.depth import FixedDepth
from depthrank.engine.replay import record_in, replay
from depthrank.errors import ArtifactError, RequestError
from depthrank.events import open_log
from depthrank.routing import AdaptivePolicy, CostRates, Plan, Survivors

NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module")
def artifact(world: Any) -> Artifact:
    loaded = load_artifact(world.artifact)
    assert loaded.adaptive is not None, "training fits a policy"
    return loaded


@pytest.fixture
def served(world: Any, artifact: Artifact) -> Iterator[Any]:
    """Rankers of the world's model; ``price`` 0 makes depth free, a high one unaffordable."""
    with open_log(world.log_url, read_only=True) as log:

        def make(price: float | None = None, policy: AdaptivePolicy | None = artifact.adaptive) -> Ranker:
            ranker = Ranker(replace(artifact, adaptive=policy), log, clock=lambda: NOW_MS)
            ranker.price = price
            return ranker

        yield make


def adaptive(**fields: Any) -> Any:
    return ask(**{"candidates": IDS, "mode": "adaptive", "top": 5, "explain": True, **fields})


def test_a_high_price_keeps_a_request_at_the_router_and_a_low_one_lets_it_go_deep(served):
    dear, free = served(1e12).rank(adaptive()), served(0.0).rank(adaptive())
    assert dear.plan == [80, 0] and dear.candidates_scored == [80]
    assert free.plan[1] > 0 and free.candidates_scored[1] > 0
    assert {item.level for item in dear.items} == {0} and {item.level for item in free.items} == {1}
    assert dear.explain["decision"]["limited_by"] == ["price"]
    assert not dear.degraded.is_, "the price is part of what adaptive means, not a failure"


def test_full_and_router_are_what_they_were_whatever_the_price(served):
    ranker = served(1e12)
    assert ranker.rank(ask(candidates=IDS, mode="full", budget=0.1)).plan == [80, 80]
    assert ranker.rank(ask(candidates=IDS, mode="router")).plan == [80, 0]


@pytest.mark.parametrize("budget", [0.15, 0.3, 0.6, 1.0])
def test_a_budget_wins_over_the_price_and_is_told(served, budget):
    ranker = served(0.0)
    answer = ranker.rank(adaptive(budget=budget))
    decision = answer.explain["decision"]["record"]["decision"]
    assert decision["cost_ms"] <= budget * decision["full_ms"] * 1.0001 or answer.plan[1] == 0
    unlimited = ranker.rank(adaptive()).plan[1]
    if answer.plan[1] < unlimited:
        assert "budget" in decision["limited_by"] and "budget" in answer.degraded.reasons[0]


def test_a_deadline_that_leaves_too_little_keeps_the_request_shallow(served, monkeypatch):
    """The first observed costs say that level 1 takes seconds; the policy then does not start it."""
    ranker = served(0.0)
    ranker.rank(adaptive())
    line = replace(ranker.generation.costs.rates.warm[2], fixed=1e6)
    slow = replace(ranker.generation.costs.rates, warm=(*ranker.generation.costs.rates.warm[:2], line))
    slow = replace(slow, cold=slow.warm)
    monkeypatch.setattr(ranker.generation.costs, "_rates", slow)
    answer = ranker.rank(adaptive(deadline_ms=5_000))
    assert answer.plan == [80, 0] and answer.explain["decision"]["limited_by"] == ["deadline"]
    assert answer.degraded.is_ and "deadline" in answer.degraded.reasons[0]


@pytest.mark.parametrize("budget", [0, -0.5, math.inf, -math.inf, math.nan, True, "half"])
def test_an_impossible_budget_is_one_clear_error(served, budget):
    with pytest.raises(RequestError, match=r"\$\.budget"):
        served().rank(adaptive(budget=budget))


def test_the_story_tells_the_plan_the_state_and_the_cost_in_words(served):
    ranker = served(0.0)
    told = " ".join(ranker.rank(adaptive()).explain["story"])
    assert "was not in the cache and was encoded from the start" in told
    assert "Plan: level 1 scores" in told and "Level 1 scored" in told and "ms were predicted" in told
    assert "was in the cache, with nothing to add" in " ".join(ranker.rank(adaptive()).explain["story"])
    stages = {cost["stage"]: cost for cost in ranker.rank(adaptive()).explain["costs"]}
    assert set(stages) == {"user", "level0", "level1"} and all(c["actual_ms"] > 0 for c in stages.values())


def test_a_decision_replays_from_its_record_as_json(served, artifact):
    for fields in ({}, {"budget": 0.4}, {"deadline_ms": 10_000}):
        answer = served(1e-3).rank(adaptive(**fields))
        record = record_in(msgspec.json.encode(answer))
        assert replay(artifact.adaptive, record).differing == ()
        assert replay(artifact.adaptive, record_in(msgspec.json.encode(record))).differing == ()


def test_a_changed_record_is_noticed(served, artifact):
    record = record_in(msgspec.json.encode(served(0.0).rank(adaptive())))
    forged = {**record, "decision": {**record["decision"], "caps": [80, 3]}}
    assert replay(artifact.adaptive, forged).differing == ("caps",)
    dearer = {**record, "inputs": {**record["inputs"], "price": 1e12}}
    assert "caps" in replay(artifact.adaptive, dearer).differing


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "expected a mapping"),
        (b'{"made_for": "x"}', "has no inputs"),
        (b'{"made_for": "x", "inputs": {}, "decision": {}}', "of model"),
        (b'{"explain": {"decision": {"policy": "fixed"}}}', "no adaptive decision"),
    ],
)
def test_what_is_no_record_of_this_model_is_one_clear_error(artifact, raw, says):
    with pytest.raises(ArtifactError, match=says):
        replay(artifact.adaptive, record_in(raw))


def test_damaged_inputs_of_a_record_are_one_clear_error(served, artifact):
    record = record_in(msgspec.json.encode(served(0.0).rank(adaptive())))
    for damage in (
        {"num_candidates": None},
        {"signals": None},
        {"rates": {"cold": 1}},
        {"top": "x"},
        {"mode": "deep"},
        {"warm": 1},
    ):
        with pytest.raises((ArtifactError, RequestError)):
            replay(artifact.adaptive, {**record, "inputs": {**record["inputs"], **damage}})


def test_values_of_level_0_that_are_no_numbers_do_not_decide(served, monkeypatch):
    ranker = served(0.0)
    probabilities = ranker.artifact.model.probabilities

    def broken(level: int, logits_NK: torch.Tensor) -> torch.Tensor:
        found = probabilities(level, logits_NK).clone()
        if level == 0:
            found[::2] = torch.nan
        return found

    monkeypatch.setattr(ranker.artifact.model, "probabilities", broken)
    answer = ranker.rank(adaptive(top=100))
    assert answer.explain["decision"]["record"]["inputs"]["signals"]["num_usable"] == 40
    assert len(answer.items) == 80 and all(np.isfinite(item.value) for item in answer.items)
    assert "level 0 gave no number for 40 candidates: they are in input order" in answer.degraded.reasons


class Settled:
    """A policy that says which survivors there are, whatever the values."""

    def __init__(self, policy: AdaptivePolicy, keep: int) -> None:
        self._policy, self._keep = policy, keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def survivors(self, level: int, value_N: np.ndarray, *_: Any) -> Survivors:
        best = np.argsort(-value_N, kind="stable")[: self._keep]
        return Survivors(best, value_N.size - best.size, 0, f"{self._keep} can change the top")


def test_survivors_of_the_bounds_alone_go_deeper_and_none_means_that_nothing_is_left_to_decide(served, artifact):
    policy: Any = artifact.adaptive
    few = served(0.0, Settled(policy, 7)).rank(adaptive(top=80))
    assert few.candidates_scored == [80, 7] and [item.level for item in few.items] == [1] * 7 + [0] * 73
    none = served(0.0, Settled(policy, 0)).rank(adaptive())
    assert none.candidates_scored == [80] and "nothing was left to decide" in none.explain["stopped"]
    assert not none.degraded.is_


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_plan_wider_than_the_candidates_scores_them_all_once(served, count):
    wide = FixedDepth(Plan((1_000, 1_000)))
    ranker = served(0.0)
    told = ranker.rank(adaptive(candidates=IDS[:count]))
    assert all(width <= count for width in told.plan) and len(told.items) == count
    full = ranker.rank(ask(candidates=IDS[:count], mode="full"))
    ranker._choose = lambda job, scores, pace, price=None: wide
    answer = ranker.rank(adaptive(candidates=IDS[:count]))
    assert answer.candidates_scored == [count, count]
    assert [i.item for i in answer.items] == [i.item for i in full.items][: len(answer.items)]


def test_the_calls_of_a_level_and_the_layers_it_encoded_are_counted_apart(served, monkeypatch):
    """A level in several calls pays its fixed part as often, and encoder layers once."""
    ranker, seen = served(0.0), []
    monkeypatch.setattr(CostRates, "call", lambda rates, level, history, left_ms=0.0: 30)
    monkeypatch.setattr(CostMeter, "observe", lambda meter, stages: seen.append(stages))
    ranker.rank(ask(candidates=IDS, mode="full", deadline_ms=60_000))
    assert [(s.level, s.candidates, s.calls) for s in seen[0]] == [(USER, 0, 1), (0, 80, 1), (1, 80, 3)]
    assert all(0 <= s.once_ms <= s.actual_ms for s in seen[0])


def test_warming_up_teaches_no_costs(served):
    ranker = served()
    before = ranker.generation.costs.rates
    ranker.warm()
    assert ranker.generation.costs.rates == before
    ranker.rank(adaptive())
    assert ranker.generation.costs.rates != before


def test_no_candidates_at_all_are_an_ordinary_answer(served):
    answer = served(0.0).rank(adaptive(candidates=[]))
    assert answer.items == [] and answer.candidates_scored == [0]


def test_a_history_that_shrinks_between_two_requests_is_forgotten_by_both(make_ranker):
    ranker = make_ranker()
    empty = shown(ranker.rank(adaptive(user="u1", time_ms=1)))
    ranker.append(one_event("u1", "i3", "click", ranker.clock_ms[0]))
    long = ranker.rank(adaptive(user="u1"))
    ranker.erase("u1")
    assert ranker.states.find((ranker.model_id, "u1")) is None
    after = ranker.rank(adaptive(user="u1"))
    assert long.explain["history_length"] > 0 and after.explain["history_length"] == 0
    assert after.explain["user_state"]["found"] == "cold" and len(empty) == 5


def test_a_clock_that_jumps_costs_no_answer_and_teaches_nothing(world, artifact):
    jumps = iter(np.random.default_rng(0).normal(0, 1e6, 10_000).cumsum().tolist())
    with open_log(world.log_url, read_only=True) as log:
        ranker = Ranker(artifact, log, clock=lambda: NOW_MS, monotonic_s=lambda: next(jumps))
        for _ in range(5):
            answer = ranker.rank(adaptive(deadline_ms=50))
            levels = [item.level for item in answer.items]
            assert len(answer.items) == 5 and levels == sorted(levels, reverse=True)
        rates = ranker.generation.costs.rates
    assert all(math.isfinite(line.ms(100, 10)) for line in (*rates.cold, *rates.warm))


def test_the_thread_pays_for_a_chunk_not_the_wall():
    """A chunk that waits costs nothing, one that computes does."""
    from depthrank.engine.pace import Pace

    thread = SimpleNamespace(s=0.0)
    wall = SimpleNamespace(s=100.0)
    pace = Pace(lambda: wall.s, deadline_s=101.0, thread_s=lambda: thread.s)
    assert pace.may_start()
    with pace.chunk("level1", 10):
        wall.s, thread.s = 102.0, 0.25
    assert pace.thread_ms("level1") == 250 and not pace.may_start() and pace.left_ms() == 0
    assert [(c.started_s, c.ended_s, c.deadline_s) for c in pace.chunks] == [(100.0, 102.0, 101.0)]

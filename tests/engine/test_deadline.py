"""Deadlines by an injected clock: no chunk starts after one, and a complete order always comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from asking import IDS, ask, shown

import depthrank.engine.run_plan as run_plan
from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.events import open_log
from depthrank.routing import CostRates


class Stopwatch:
    """Seconds that pass only inside the model, one a chunk; notes when each chunk started."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.started_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def timed(self, method: Any) -> Any:
        def chunk(*args: Any, **options: Any) -> Any:
            self.started_s.append(self.now_s)
            self.now_s += 1.0
            return method(*args, **options)

        return chunk


@pytest.fixture
def timed(world, monkeypatch):
    """A ranker whose chunks are of four candidates and take a second each."""
    monkeypatch.setattr(CostRates, "call", lambda rates, level, history, left_ms=0.0: 4)
    monkeypatch.setattr(run_plan, "ROUTER_CHUNK_WITH_DEADLINE", 16)
    watch, artifact = Stopwatch(), load_artifact(world.artifact)
    for name in ("route", "refine", "begin"):
        monkeypatch.setattr(artifact.model, name, watch.timed(getattr(artifact.model, name)))
    with open_log(world.log_url, read_only=True) as log:
        yield Ranker(artifact, log, monotonic_s=watch), watch


@pytest.mark.parametrize("deadline_s", [0.5, 1.5, 2.5, 3.5, 5.5, 9.5, 50])
def test_no_chunk_starts_after_the_deadline_and_the_order_is_complete(timed, ranker, deadline_s):
    ranker_in_time, watch = timed
    answer = ranker_in_time.rank(ask(candidates=IDS[:40], deadline_ms=1000 * deadline_s))
    assert watch.started_s and all(at < deadline_s for at in watch.started_s)
    assert sorted(item.item for item in answer.items) == sorted(IDS[:40])
    late = deadline_s < 50
    assert answer.degraded.is_ == late and any("deadline" in reason for reason in answer.degraded.reasons) == late
    levels = [item.level for item in answer.items]
    assert levels == sorted(levels, reverse=True)
    assert answer.candidates_scored[-1] == levels.count(len(answer.candidates_scored) - 1)
    unscored = [item.item for item in answer.items if item.level == -1]
    assert unscored == [i for i in IDS[:40] if i in unscored], "what nothing scored is in input order"


def test_what_the_deadline_leaves_is_scored_as_without_one(timed, ranker):
    ranker_in_time, _ = timed
    answer = ranker_in_time.rank(ask(candidates=IDS[:40], deadline_ms=6500, time_ms=1_900_000_000_000))
    assert answer.candidates_scored == [40, 12]
    router = ranker.rank(ask(candidates=IDS[:40], mode="router", time_ms=1_900_000_000_000))
    full = {i.item: i for i in ranker.rank(ask(candidates=IDS[:40], mode="full", time_ms=1_900_000_000_000)).items}
    deep = [item for item in answer.items if item.level == 1]
    assert {item.item for item in deep} == {item.item for item in router.items[:12]}, "the most promising went first"
    for item in deep:
        assert item.value == pytest.approx(full[item.item].value, rel=1e-4)
    assert "deadline: level 1 scored 12 of 40 candidates" in answer.degraded.reasons[0]


def test_a_deadline_that_passed_before_scoring_gives_input_order_and_says_so(timed):
    ranker, watch = timed
    watch.now_s = 100.0
    answer = ranker.rank(ask(candidates=IDS[5:9], deadline_ms=50, explain=True), arrived_s=99.0)
    assert watch.started_s == [], "nothing was started"
    assert shown(answer) == [(item, -1, 0.0) for item in IDS[5:9]]
    assert answer.degraded.reasons == ["deadline: it passed before anything was scored, candidates are in input order"]
    assert answer.explain["items"][0]["router_rank"] is None


def test_the_deadline_counts_from_the_arrival(timed):
    ranker, watch = timed
    watch.now_s = 10.0
    late = ranker.rank(ask(candidates=IDS[:4], deadline_ms=2500), arrived_s=8.0)
    assert late.candidates_scored == [0] and late.degraded.is_
    assert np.isfinite(late.timings_ms["total"])

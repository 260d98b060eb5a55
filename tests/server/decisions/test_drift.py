"""Hourly calibration and NE: labels join what was shown, when their window has closed, and nothing is counted twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranker_double import small_spec

from depthrank.events import EventBatch
from depthrank.metrics import normalized_entropy
from depthrank.schema import Answer, Degraded, RankedItem, Request
from depthrank.server.decisions.drift import HOUR_MS, Drift, HourFigures

WINDOW_MS = 1_800_000
T0 = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def shown(
    drift: Drift, request_id: str, items: dict[str, float], at_ms: int, user: str = "u", model: str = "m"
) -> None:
    ranked = [RankedItem(item, p, {"click": p, "like": p / 2}, 1) for item, p in items.items()]
    answer = Answer(request_id, model, ranked, [1], [1], {}, Degraded())
    drift.shown(Request(user=user, candidates=list(items), time_ms=at_ms), answer, at_ms)


def acted(drift: Drift, action: str, item: str, at_ms: int, **columns: Any) -> None:
    drift.acted(EventBatch([columns.pop("user", "u")], [item], [action], np.array([at_ms]), **columns), at_ms)


def figures(drift: Drift, now_ms: int, task: str = "click") -> dict[int, HourFigures]:
    drift.close_until(now_ms)
    return {hour: f for hour, of_task, _, f in drift.by_hour() if of_task == task}


@pytest.fixture
def drift() -> Drift:
    return Drift(small_spec())


def test_an_action_labels_the_item_of_its_request_and_silence_is_a_negative(drift: Drift) -> None:
    shown(drift, "r1", {"a": 0.5, "b": 0.25}, T0)
    acted(drift, "click", "a", T0 + 5, request_id=["r1"])
    assert figures(drift, T0 + WINDOW_MS) == {}, "the window is open"
    (found,) = figures(drift, T0 + WINDOW_MS + 1).values()
    assert (found.impressions, found.positives, found.predicted) == (2, 1, 0.75)
    assert found.log_loss == pytest.approx(-math.log(0.5) - math.log(0.75))
    assert drift.waiting == 0


def test_without_a_request_id_the_user_and_the_window_decide(drift: Drift) -> None:
    shown(drift, "r1", {"a": 0.5}, T0)
    acted(drift, "click", "a", T0 + 5, user="somebody else")
    acted(drift, "click", "unseen", T0 + 5)
    acted(drift, "like", "a", T0 + 5)
    assert figures(drift, T0 + WINDOW_MS + 1)[T0].positives == 0
    assert figures(drift, T0 + WINDOW_MS + 1, "like")[T0].positives == 1
    shown(drift, "r2", {"a": 0.5}, T0 + HOUR_MS)
    acted(drift, "click", "a", T0 + HOUR_MS + WINDOW_MS)
    assert figures(drift, T0 + 2 * HOUR_MS)[T0 + HOUR_MS].positives == 1


def test_a_late_action_and_one_of_an_unknown_request_label_nothing(drift: Drift) -> None:
    shown(drift, "r1", {"a": 0.5}, T0)
    acted(drift, "click", "a", T0 + WINDOW_MS + 1)
    acted(drift, "click", "a", T0 + 1, request_id=["other"])
    assert figures(drift, T0 + HOUR_MS)[T0].positives == 0


def test_the_same_answer_twice_and_the_same_click_twice_count_once(drift: Drift) -> None:
    for _ in range(2):
        shown(drift, "r1", {"a": 0.5}, T0)
        acted(drift, "click", "a", T0 + 1, request_id=["r1"])
    assert figures(drift, T0 + HOUR_MS)[T0] == HourFigures(1, 0.5, 1, -math.log(0.5))


def test_hours_tasks_and_versions_are_kept_apart(drift: Drift) -> None:
    shown(drift, "r1", {"a": 0.5}, T0, model="one")
    shown(drift, "r2", {"a": 0.5}, T0, model="two")
    shown(drift, "r3", {"a": 0.5}, T0 + HOUR_MS, model="one")
    drift.close_until(T0 + 3 * HOUR_MS)
    keys = [(hour, task, model) for hour, task, model, _ in drift.by_hour()]
    assert keys == sorted(keys) and len(keys) == 6
    assert drift.quality("two") == (1, None)


def test_old_hours_and_what_does_not_fit_go(drift: Drift) -> None:
    small = Drift(small_spec(), hours=2, most_impressions=3)
    shown(small, "r1", {"a": 0.5, "b": 0.5}, T0)
    shown(small, "r2", {"a": 0.5, "b": 0.5}, T0)
    assert small.left_out == 1 and small.waiting == 2
    for hour in range(1, 5):
        shown(small, f"h{hour}", {"a": 0.5}, T0 + hour * HOUR_MS)
    assert list(figures(small, T0 + 6 * HOUR_MS)) == [T0 + 3 * HOUR_MS, T0 + 4 * HOUR_MS]


def test_an_erased_user_waits_no_longer(drift: Drift) -> None:
    shown(drift, "r1", {"a": 0.5}, T0)
    shown(drift, "r2", {"a": 0.5}, T0, user="other")
    drift.forget("u")
    assert drift.waiting == 1
    acted(drift, "click", "a", T0 + 1)
    assert figures(drift, T0 + HOUR_MS)[T0] == HourFigures(1, 0.5, 0, -math.log(0.5))


@given(
    rows=st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=2, max_size=60).filter(
        lambda rows: 0 < sum(y for _, y in rows) < len(rows)
    )
)
def test_ne_and_calibration_are_those_of_the_metrics_room(rows: list[tuple[float, bool]]) -> None:
    sums = HourFigures()
    for p, y in rows:
        sums.add(p, y)
    p, y = np.array([p for p, _ in rows]), np.array([y for _, y in rows], dtype=np.float64)
    assert sums.ne == pytest.approx(normalized_entropy(y, p), rel=1e-6)
    assert sums.calibration == pytest.approx(p.mean() / y.mean())

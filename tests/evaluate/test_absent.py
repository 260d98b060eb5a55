"""The reason beside every figure that has no value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from depthrank.evaluate.absent import absent_figures
from depthrank.evaluate.figures import Rows


def rows(label_n: list[float], candidates_r: list[int], user_r: list[int]) -> Rows:
    """One task ``click``; rows lie in requests of so many candidates."""
    count = np.array(candidates_r, np.int64)
    n = len(label_n)
    return Rows(
        tasks=("click",),
        user=np.array(user_r, np.int64),
        history_length=np.zeros(len(count), np.int64),
        num_candidates=count,
        label=np.array(label_n, np.float32)[:, None],
        item_row=np.arange(n, dtype=np.int64),
        request=np.repeat(np.arange(len(count)), count),
        probability=[np.full((n, 1), 0.5, np.float32)],
    )


def figures(gauc: float, mrr: float) -> dict[str, Any]:
    return {"tasks": {"click": {"gauc": gauc}}, "ranking": {"mrr": mrr}}


def test_one_candidate_a_request_is_told_with_what_to_do() -> None:
    found = absent_figures(rows([1, 0, 0], [1, 1, 1], [0, 1, 2]), figures(math.nan, math.nan))
    assert found["ranking"].startswith("every request has one candidate") and "group" in found["ranking"]
    assert found["click.gauc"] == "no user has both a positive and a negative"


def test_lists_without_a_positive_are_told_by_task_and_ranking() -> None:
    found = absent_figures(rows([0, 0, 0, math.nan], [2, 2], [0, 1]), figures(math.nan, math.nan))
    assert found["click"] == "0 positives among 3 labels: both classes are needed"
    assert found["ranking"].endswith("none of 2 has both")


def test_nothing_is_said_where_every_figure_has_a_value() -> None:
    assert absent_figures(rows([1, 0, 0, 1], [2, 2], [0, 1]), figures(0.7, 0.5)) == {}

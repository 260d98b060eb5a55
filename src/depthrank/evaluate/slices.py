"""The same figures for parts of the traffic: by history length, by scenario (a context column), by item popularity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.evaluate.collected import MAX_SCENARIOS, TOP, Collected
from depthrank.evaluate.figures import Plain, Rows
from depthrank.metrics import mean_over_requests

LENGTHS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1_000)
POPULARITY_PARTS = 5

Bools = npt.NDArray[np.bool_]


def slice_figures(collected: Collected, rows: Rows, popularity: npt.NDArray[np.int64]) -> Plain:
    """``{"history_length": [..], "scenario": {column: [..]}, "item_popularity": [..]}``; each entry names its slice."""
    return {
        "history_length": [
            _request_slice(collected, rows, name, chosen) for name, chosen in _by_length(rows.history_length)
        ],
        "scenario": {
            column: [_request_slice(collected, rows, name, chosen) for name, chosen in _by_value(values)]
            for column, values in collected.context.items()
            if _few_values(values)
        },
        "item_popularity": list(_by_popularity(collected, rows, popularity)),
    }


def _request_slice(collected: Collected, rows: Rows, name: str, chosen: Bools) -> Plain:
    """Figures of the requests ``chosen`` [R], at the deepest level."""
    deepest = collected.levels[-1]
    of_rows = chosen[rows.request]
    return {
        "slice": name,
        "requests": int(chosen.sum()),
        "tasks": {task: rows.of_task(k, -1, of_rows).figures() for k, task in enumerate(rows.tasks)},
        f"ndcg@{TOP}": mean_over_requests(np.concatenate(deepest.ndcg)[chosen]),
        f"hr@{TOP}": mean_over_requests(np.concatenate(deepest.hit)[chosen]),
    }


def _by_length(length: npt.NDArray[np.int64]) -> Iterator[tuple[str, Bools]]:
    for low, high in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        chosen = (length >= low) & (length < high if high is not None else True)
        if chosen.any():
            name = f"{low} and more" if high is None else str(low) if high == low + 1 else f"{low} to {high - 1}"
            yield name, chosen


def _few_values(values: list[object]) -> bool:
    return all(not isinstance(v, (list, dict)) for v in values) and len(set(map(str, values))) > 1


def _by_value(values: list[object]) -> Iterator[tuple[str, Bools]]:
    """The most frequent values, and all others together."""
    text = np.array(["(missing)" if v is None else str(v) for v in values], dtype=object)
    names, code, count = np.unique(text.astype(str), return_inverse=True, return_counts=True)
    frequent = np.argsort(-count, kind="stable")[:MAX_SCENARIOS]
    for i in frequent:
        yield str(names[i]), code == i
    rest = ~np.isin(code, frequent)
    if rest.any():
        yield "(all others)", rest


def _by_popularity(collected: Collected, rows: Rows, popularity: npt.NDArray[np.int64]) -> Iterator[Plain]:
    """Candidates by how often their item was a training positive: never, then equal parts of the others.

    ``hr@10`` is, of the relevant candidates of the slice, the share in the top 10: at every level, which shows whether
    the router cuts off new items that the expert would have found.
    """
    edges = np.unique(np.quantile(popularity[1:][popularity[1:] > 0], np.linspace(0, 1, POPULARITY_PARTS + 1)[1:-1]))
    part = np.where(popularity > 0, 1 + np.searchsorted(edges, popularity, side="right"), 0)
    relevant_item, rank = np.concatenate(collected.relevant_item), np.concatenate(collected.relevant_rank)
    for p in range(len(edges) + 2):
        chosen = part[rows.item_row] == p
        found = rank[part[relevant_item] == p]
        if not chosen.any() and not len(found):
            continue
        hits: list[Any] = (found < TOP).mean(axis=0).tolist() if len(found) else [float("nan")] * rank.shape[1]
        yield {
            "slice": _part_name(popularity, part, p),
            "rows": int(chosen.sum()),
            "relevant": len(found),
            "tasks": {task: rows.of_task(k, -1, chosen).figures() for k, task in enumerate(rows.tasks)},
            f"hr@{TOP}_by_level": hits,
        }


def _part_name(popularity: npt.NDArray[np.int64], part: npt.NDArray[np.int64], p: int) -> str:
    if p == 0:
        return "no training positive"
    members = popularity[part == p]
    return f"{members.min()} to {members.max()} training positives" if len(members) else "(none)"

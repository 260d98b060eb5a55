"""The last answer before none: the first candidates as they came, marked as scored by nothing."""

from __future__ import annotations

from collections.abc import Sequence

from depthrank.catalogue import Catalogue
from depthrank.schema import Answer, Degraded, RankedItem, Request

UNSCORED = -1


def in_input_order(
    request: Request, request_id: str, model: str, tasks: Sequence[str], items: Catalogue, reason: str
) -> Answer:
    """The answer that level -1 gives; ``reason``: why nothing better."""
    ids, number = _first_ids(request, items)
    return Answer(
        request_id=request_id,
        model=model,
        items=[RankedItem(item, 0.0, dict.fromkeys(tasks, 0.0), UNSCORED) for item in ids],
        plan=[number],
        candidates_scored=[0],
        timings_ms={"total": 0.0},
        degraded=Degraded(True, [f"overload: {reason}; candidates are in input order"]),
    )


def num_candidates(request: Request, items: Catalogue) -> int:
    """How many candidates a checked request has."""
    given = request.candidates
    if isinstance(given, str):
        return items.size - 1
    return len(given["item"]) if isinstance(given, dict) else len(given)


def _first_ids(request: Request, items: Catalogue) -> tuple[list[str], int]:
    given, number = request.candidates, num_candidates(request, items)
    if isinstance(given, str):
        return list(items.ids_of(range(1, min(request.top, number) + 1))), number
    listed = given["item"] if isinstance(given, dict) else given
    first = listed[: request.top]
    return [str(item) for item in (first if isinstance(first, list) else first.tolist())], number

"""Does the accounting hold? Held-out requests through the engine as it serves them, its own timings beside predictions.

Thread time on both sides, so that other processes on the machine do not count.

Legend: R requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from depthrank.catalogue import Catalogue
from depthrank.data import Batch
from depthrank.engine import Ranker
from depthrank.routing import CostRates
from depthrank.schema import Answer, Request
from depthrank.schema.request import Mode
from depthrank.training.replay_requests import OneRequest

MODES: tuple[Mode, ...] = ("full", "router", "adaptive")
PASSES = 3

Plain = dict[str, Any]


def engine_timings(ranker: Ranker, requests: Sequence[OneRequest], items: Catalogue, rates: CostRates) -> Plain:
    """Mean milliseconds of user side and levels that ``Ranker.rank`` took, warm, against the predicted ones.

    ``ranker``: with ``thread_clock`` as its clock.
    """
    found = {mode: _mode(ranker, requests, items, mode, rates) for mode in MODES}
    full = found["full"]
    fractions = {
        mode: {name: row[f"{name}_ms"] / full[f"{name}_ms"] for name in ("predicted", "actual")}
        for mode, row in found.items()
    }
    told = (f"{mode} {f['predicted']:.3f} and {f['actual']:.3f}" for mode, f in fractions.items())
    said = f"fraction of full depth, predicted and by the engine: {', '.join(told)}"
    rows = [{"mode": mode, "requests": len(requests), **row} for mode, row in found.items()]
    return {"modes": rows, "fractions": fractions, "said": said}


def _mode(
    ranker: Ranker, requests: Sequence[OneRequest], items: Catalogue, mode: Mode, rates: CostRates
) -> dict[str, float]:
    """Mean predicted and actual milliseconds of all requests in one mode."""
    pairs = [_timed(ranker, request_of(one.batch, items, mode), one.history_length, rates) for one in requests]
    predicted, actual = np.array(pairs, dtype=np.float64).T
    return {
        "predicted_ms": float(predicted.mean()),
        "actual_ms": float(actual.mean()),
        "ratio": float(actual.sum() / predicted.sum()),
        "error_p90": float(np.quantile(np.abs(predicted - actual) / actual, 0.9)),
    }


def request_of(batch: Batch, items: Catalogue, mode: Mode) -> Request:
    """A batch of one request as a client would send it, as of its own time."""
    ids: list[Any] = items.ids_of(batch.item_row)
    columns = {name: _listed(values) for name, values in batch.columns.items()}
    return Request(
        user=batch.user[0],
        candidates={"item": ids, **columns} if columns else ids,
        context={name: _plain(values[0]) for name, values in batch.context.items()},
        time_ms=int(batch.time_ms[0]),
        mode=mode,
    )


def _timed(ranker: Ranker, request: Request, history: int, rates: CostRates) -> tuple[float, float]:
    """Predicted and actual milliseconds of user side and levels; the user state is warm, the fastest pass counts."""
    answers = [ranker.rank(request) for _ in range(PASSES)]
    predicted = rates.plan_ms(answers[-1].candidates_scored, history, warm=True)
    return predicted, min(_levels_ms(answer) for answer in answers[1:])


def _levels_ms(answer: Answer) -> float:
    return sum(ms for name, ms in answer.timings_ms.items() if name == "user" or name.startswith("level"))


def _listed(values: Any) -> list[Any]:
    return [_plain(v) for v in np.asarray(values).tolist()]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

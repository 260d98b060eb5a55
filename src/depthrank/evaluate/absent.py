"""Why a figure has no value: what the split would need for it, and what it has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from depthrank.evaluate.figures import Plain, Rows


def absent_figures(rows: Rows, deepest: Plain) -> dict[str, str]:
    """Figure, such as ``ranking`` or ``click.gauc`` -> the reason, for figures of the deepest level without a value."""
    found = {}
    for k, task in enumerate(rows.tasks):
        figures = deepest["tasks"][task]
        label = rows.label[:, k]
        known = label[~np.isnan(label)]
        positives = int((known > 0).sum())
        if positives in (0, len(known)):
            found[task] = f"{positives:,} positives among {len(known):,} labels: both classes are needed"
        elif _is_absent(figures["gauc"]):
            found[f"{task}.gauc"] = "no user has both a positive and a negative"
    if _is_absent(deepest["ranking"]["mrr"]):
        found["ranking"] = _no_order(rows)
    return found


def _no_order(rows: Rows) -> str:
    """Why the order of no request can be right or wrong."""
    needed = "a request needs a relevant candidate and one that is not"
    most = int(rows.num_candidates.max(initial=0))
    if most < 2:
        return f"every request has one candidate: {needed}; group the rows that were shown together by `request`"
    return f"{needed}, and none of {len(rows.num_candidates):,} has both"


def _is_absent(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)

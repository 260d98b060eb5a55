"""Which part of the catalogue the returned items come from: coverage and the share of the long tail."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthrank.metrics.requests import Ints


def coverage(returned_item: Ints, num_items: int) -> float:
    """The share of ``num_items`` that is returned at least once; NaN for an empty catalogue."""
    return len(np.unique(returned_item)) / num_items if num_items else float("nan")


def head_items(popularity: Ints, share: float = 0.2) -> npt.NDArray[np.bool_]:
    """True for the most popular ``share`` of items (ties by row), from training events per item row, bool [V]."""
    num_head = round(share * len(popularity))
    head = np.zeros(len(popularity), dtype=np.bool_)
    head[np.argsort(-popularity, kind="stable")[:num_head]] = True
    return head


def long_tail_share(returned_item: Ints, popularity: Ints, head_share: float = 0.2) -> float:
    """The share of returned places held by items outside the most popular ``head_share`` of the catalogue.

    ``returned_item`` are rows of ``popularity`` [V] (training events per item). NaN where nothing was returned.
    """
    if not len(returned_item):
        return float("nan")
    return float(1.0 - head_items(popularity, head_share)[returned_item].mean())

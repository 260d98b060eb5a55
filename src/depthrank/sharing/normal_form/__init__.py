"""From a captured graph to batch-first nodes: where the batch lies in every tensor, and who mixes its rows."""

from __future__ import annotations

from depthrank.sharing.normal_form import (
    elementwise,
    indexing,
    lookups,
    matrices,
    products,
    reductions,
    selection,
    spectra,
    views,
    windows,
    writes,
)
from depthrank.sharing.normal_form.reader import Reader, make_node, make_nodes

__all__ = [
    "Reader",
    "elementwise",
    "indexing",
    "lookups",
    "make_node",
    "make_nodes",
    "matrices",
    "products",
    "reductions",
    "selection",
    "spectra",
    "views",
    "windows",
    "writes",
]

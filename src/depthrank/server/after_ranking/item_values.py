"""Catalogue values of shown items, as the rules read them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue, Column, ListColumn, NumberColumn, TextColumn


def keys_of(items: Catalogue, name: str, ids: Sequence[str]) -> list[frozenset[Hashable]]:
    """The values of a column as sets, one an item: of one value, of a list's, empty where it is missing.

    Raises CatalogueError for an unknown column, and for a vector, which has no values to be equal.
    """
    column = items.column(name)
    return [_keys(column, row) for row in items.row_of(list(ids)).tolist()]


def similarity(items: Catalogue, name: str, ids: Sequence[str]) -> NDArray[np.float64]:
    """Likeness of items by a column, float64 [N, N] in [0, 1]: cosine of vectors, else Jaccard of values."""
    column = items.column(name)
    rows = items.row_of(list(ids))
    if not isinstance(column, (NumberColumn, TextColumn, ListColumn)):
        known = np.where(rows < len(column), rows, 0)
        vector_ND = np.asarray(column.values[known], np.float64)
        length_N = np.linalg.norm(vector_ND, axis=1)
        unit_ND = vector_ND / np.where(length_N > 0, length_N, 1.0)[:, None]
        return np.clip(unit_ND @ unit_ND.T, 0.0, 1.0)
    keys = [_keys(column, row) for row in rows.tolist()]
    alike = np.zeros((len(keys), len(keys)))
    for i, a in enumerate(keys):
        for j in range(i):
            union = len(a | keys[j])
            alike[i, j] = alike[j, i] = len(a & keys[j]) / union if union else 0.0
    return alike


def _keys(column: Column, row: int) -> frozenset[Hashable]:
    if row >= len(column):
        return frozenset()
    value: Any
    if isinstance(column, NumberColumn):
        value = None if column.missing[row] else column.values[row].item()
    elif isinstance(column, TextColumn):
        code = int(column.codes[row])
        value = column.dictionary[code] if code else None
    elif isinstance(column, ListColumn):
        return frozenset(column.dictionary[c] for c in column.pool[column.starts[row] : column.stops[row]].tolist())
    else:
        return frozenset()
    return frozenset() if value is None else frozenset([value])

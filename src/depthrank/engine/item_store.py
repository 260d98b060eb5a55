"""Item-side values of the whole catalogue, kept ready: encoded once per model generation, changed rows on upsert.

Rows are gathered under the same lock that an upsert writes under, so a request sees each item before or after an
upsert, never in between.

Legend: V catalogue rows, N rows asked for, T item tokens, D width, K tasks.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue
from depthrank.features import FeatureEncoder
from depthrank.model import ElasticRanker, ItemSide

CHUNK_ROWS = 8_192
SLACK = 1.25


class ItemStore:
    """ItemSide for every catalogue row."""

    def __init__(self, model: ElasticRanker, encoder: FeatureEncoder, items: Catalogue) -> None:
        self._model, self._encoder, self._items = model, encoder, items
        self._lock = threading.Lock()
        self._size = 0
        self._side = self._encode(np.arange(items.size, dtype=np.int64))
        self._size = items.size

    @property
    def size(self) -> int:
        """Rows ready to be ranked."""
        return self._size

    def gather(self, rows_N: NDArray[np.int64]) -> ItemSide:
        """A private copy of the rows asked for."""
        index = torch.from_numpy(rows_N)
        with self._lock:
            return self._side.rows(index)

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Encode changed and new rows again and publish them together."""
        fresh = self._encode(rows)
        index = torch.from_numpy(rows)
        with self._lock:
            self._grow(int(rows.max()) + 1 if rows.size else 0)
            for name in ("tokens_UTD", "vector_UD", "bias_UK"):
                getattr(self._side, name)[index] = getattr(fresh, name)
            self._size = max(self._size, self._items.size)

    def _grow(self, size: int) -> None:
        if size <= self._side.vector_UD.shape[0]:
            return
        capacity = int(size * SLACK)
        grown = []
        for name in ("tokens_UTD", "vector_UD", "bias_UK"):
            old = getattr(self._side, name)
            new = old.new_zeros(capacity, *old.shape[1:])
            new[: old.shape[0]] = old
            grown.append(new)
        self._side = ItemSide(*grown)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _encode(self, rows: NDArray[np.int64]) -> ItemSide:
        parts = []
        for start in range(0, max(rows.size, 1), CHUNK_ROWS):
            encoded = self._encoder.encode_items(self._items, rows[start : start + CHUNK_ROWS])
            parts.append(self._model.encode_items(torch.from_numpy(encoded.ids), torch.from_numpy(encoded.floats)))
        return ItemSide(
            torch.cat([p.tokens_UTD for p in parts]),
            torch.cat([p.vector_UD for p in parts]),
            torch.cat([p.bias_UK for p in parts]),
        )

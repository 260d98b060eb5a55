"""Item-side values of the whole catalogue, kept ready: encoded once per model generation, changed rows on upsert.

Rows are gathered under the same lock that an upsert writes under, so a request sees each item before or after an
upsert, never in between. A row that is in the catalogue but not encoded yet is the unknown item, row 0.

Legend: V catalogue rows, N rows asked for, T item tokens, D width, K tasks.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        """A private copy of the rows asked for; rows that are not encoded yet read as row 0."""
        with self._lock:
            index = torch.from_numpy(np.where(rows_N < self._size, rows_N, 0))
            return self._side.rows(index)

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Encode changed and new rows again and publish them together; every row below the largest is ready then."""
        if not rows.size:
            return
        fresh = self._encode(rows)
        index, size = torch.from_numpy(rows), int(rows.max()) + 1
        with self._lock:
            self._grow(size)
            for own, new in zip(_parts(self._side), _parts(fresh), strict=True):
                own[index] = new
            self._size = max(self._size, size)

    def _grow(self, size: int) -> None:
        if size <= self._side.vector_UD.shape[0]:
            return
        capacity = int(size * SLACK)
        grown = []
        for old in _parts(self._side):
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


def _parts(side: ItemSide) -> tuple[Tensor, ...]:
    return side.tokens_UTD, side.vector_UD, side.bias_UK

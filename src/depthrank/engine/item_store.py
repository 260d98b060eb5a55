"""Item-side values of the whole catalogue, kept ready: encoded once per model generation, changed rows on upsert.

A request reads through a snapshot, at several times: vectors of all its candidates first, tokens of those that go
deeper later. An upsert in between keeps what it overwrites for as long as an older snapshot lives, so a request sees
each item before or after an upsert, never in between. A row that is in the catalogue but not encoded yet is the unknown
item, row 0.

A delta changes rows too, all at once with the model that encodes them. Such changes are noted apart from upserts: user
states that were encoded from the rows before may serve on for a while (``user_side.py``).

Legend: V catalogue rows, N rows asked for, L history tokens, T item tokens, D width, K tasks.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthrank.catalogue import Catalogue
from depthrank.engine.call_size import filled
from depthrank.features import FeatureEncoder
from depthrank.model import ElasticRanker, ItemSide

CHUNK_ROWS = 8_192
SLACK = 1.25
TOKENS, VECTOR, BIAS, IDS, FLOATS = range(5)  # ``ItemSide.parts``; the last two where levels read item columns
Pieces = Callable[[NDArray[np.int64]], Iterator[NDArray[np.int64]]]
"""Rows in pieces to encode one after the other, in their order; of no rows, one empty piece."""


def in_chunks(rows_N: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Pieces as large as is quickest, for when nobody waits."""
    for start in range(0, max(rows_N.size, 1), CHUNK_ROWS):
        yield rows_N[start : start + CHUNK_ROWS]


@dataclass(frozen=True)
class _Overwritten:
    """What the refresh to ``version`` replaced: the old values of some rows, ascending."""

    version: int
    rows: NDArray[np.int64]
    side: ItemSide


class ItemStore:
    """ItemSide for every catalogue row; ``version`` counts refreshes."""

    def __init__(
        self, model: ElasticRanker, encoder: FeatureEncoder, items: Catalogue, pieces: Pieces | None = None
    ) -> None:
        """Encodes every row, in ``pieces`` where requests are served meanwhile."""
        self._model, self._encoder, self._items = model, encoder, items
        self._lock = threading.Lock()
        self._side = self._encode(np.arange(items.size, dtype=np.int64), model, pieces or in_chunks)
        self._size, self._version = items.size, 0
        self._changed_V = np.zeros(items.size, dtype=np.int64)  # the version of the last refresh
        self._outdated_V = np.zeros(items.size, dtype=np.int64)  # the version of the last delta
        self._overwritten: list[_Overwritten] = []
        self._snapshots: weakref.WeakSet[ItemSnapshot] = weakref.WeakSet()

    @property
    def size(self) -> int:
        """Rows ready to be ranked."""
        return self._size

    def snapshot(self) -> ItemSnapshot:
        """The store as it is now; hold it only as long as a request lives."""
        with self._lock:
            snapshot = ItemSnapshot(self, self._size, self._version)
            self._snapshots.add(snapshot)
            return snapshot

    def gather(self, rows_N: NDArray[np.int64]) -> ItemSide:
        """A private copy of the rows asked for; rows that are not encoded yet read as row 0."""
        return self.snapshot().side(rows_N)

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Encode changed and new rows (ascending) again and publish them together; every row below the largest is
        ready then."""
        if rows.size:
            self.publish(rows, self.encode(rows))

    def encode(
        self, rows: NDArray[np.int64], model: ElasticRanker | None = None, pieces: Pieces | None = None
    ) -> ItemSide:
        """Rows encoded by another model, by default by that of the store, in ``pieces`` beside requests."""
        return self._encode(rows, model or self._model, pieces or in_chunks)

    def publish(
        self, rows: NDArray[np.int64], fresh: ItemSide, model: ElasticRanker | None = None, *, outdates: bool = False
    ) -> None:
        """Replace rows (ascending) by their fresh values. ``model`` encodes from now on; ``outdates``: by a delta, what
        was encoded from the old values may serve on for a while."""
        index, size = torch.from_numpy(rows), int(rows.max(initial=-1)) + 1
        with self._lock:
            self._version += 1
            self._keep_for_snapshots(rows[rows < self._size])
            self._grow(size)
            for own, new in zip(self._side.parts(), fresh.parts(), strict=True):
                own[index] = new
            (self._outdated_V if outdates else self._changed_V)[rows] = self._version
            self._changed_V[self._size : size] = self._version  # they were row 0 until now
            self._size = max(self._size, size)
            self._model = model or self._model

    def _read(self, parts: tuple[int, ...], rows_N: NDArray[np.int64], size: int, version: int) -> list[Tensor]:
        """Copies of some parts for N rows, as they were at ``version``."""
        known_N = np.where(rows_N < size, rows_N, 0)
        index = torch.from_numpy(known_N)
        with self._lock:
            found = [self._side.parts()[part].index_select(0, index) for part in parts]
            for old in reversed(self._overwritten):  # the oldest above ``version`` is read last and stays
                if old.version > version:
                    place_N = np.searchsorted(old.rows, known_N)
                    hit = np.flatnonzero(old.rows[np.minimum(place_N, old.rows.size - 1)] == known_N)
                    source = torch.from_numpy(place_N[hit])
                    for part, values in zip(parts, found, strict=True):
                        values[torch.from_numpy(hit)] = old.side.parts()[part][source]
        return found

    def _newer(self, stamps_V: NDArray[np.int64], rows_L: NDArray[np.integer], version: int) -> NDArray[np.bool_]:
        """Which rows were stamped after ``version``."""
        with self._lock:
            inside = rows_L < stamps_V.size
            newer: NDArray[np.bool_] = stamps_V[np.where(inside, rows_L, 0)] > version
            return newer & inside

    def _keep_for_snapshots(self, rows: NDArray[np.int64]) -> None:
        """Drop what no snapshot reads any more, and keep what is about to be overwritten while one may."""
        oldest = min((snapshot.version for snapshot in self._snapshots), default=self._version)
        self._overwritten = [old for old in self._overwritten if old.version > oldest]
        if oldest < self._version and rows.size:
            self._overwritten.append(_Overwritten(self._version, rows, self._side.rows(torch.from_numpy(rows))))

    def _grow(self, size: int) -> None:
        if size <= self._side.vector_UD.shape[0]:
            return
        capacity = int(size * SLACK)
        grown = []
        for old in self._side.parts():
            new = old.new_zeros(capacity, *old.shape[1:])
            new[: old.shape[0]] = old
            grown.append(new)
        self._side = ItemSide(*grown)
        self._changed_V = np.pad(self._changed_V, (0, capacity - self._changed_V.size))
        self._outdated_V = np.pad(self._outdated_V, (0, capacity - self._outdated_V.size))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _encode(self, rows: NDArray[np.int64], model: ElasticRanker, pieces: Pieces) -> ItemSide:
        """Rows are filled up to sizes of calls: products of one to three rows take other kernels, with other bits."""
        parts = []
        for piece in pieces(rows):
            encoded = self._encoder.encode_items(self._items, filled(piece))
            side = model.encode_items(torch.from_numpy(encoded.ids), torch.from_numpy(encoded.floats))
            parts.append([part[: piece.size] for part in side.parts()])
        return ItemSide(*(torch.cat(same) for same in zip(*parts, strict=True)))


class ItemSnapshot:
    """The store as one request sees it, however late it reads."""

    def __init__(self, store: ItemStore, size: int, version: int) -> None:
        self._store, self.size, self.version = store, size, version

    def side(self, rows_N: NDArray[np.int64]) -> ItemSide:
        """Every part of N rows."""
        parts = tuple(range(len(self._store._side.parts())))
        return ItemSide(*self._store._read(parts, rows_N, self.size, self.version))

    def for_router(self, rows_N: NDArray[np.int64]) -> ItemSide:
        """Vectors and biases of N rows, in their order; no tokens."""
        vector_ND, bias_NK = self._store._read((VECTOR, BIAS), rows_N, self.size, self.version)
        return ItemSide(self._store._side.tokens_UTD[:0], vector_ND, bias_NK, in_order=True)

    def for_levels(self, rows_N: NDArray[np.int64]) -> ItemSide:
        """Tokens of N rows (and their columns, where levels read them), in their order; no vectors."""
        side = self._store._side
        parts = (TOKENS,) if side.ids_UI is None else (TOKENS, IDS, FLOATS)
        tokens_NTD, *raw = self._store._read(parts, rows_N, self.size, self.version)
        return ItemSide(tokens_NTD, side.vector_UD[:0], side.bias_UK[:0], *raw, in_order=True)

    def vectors(self, rows_L: NDArray[np.int64]) -> Tensor:
        """Vectors [L, D]."""
        return self._store._read((VECTOR,), rows_L, self.size, self.version)[0]

    def differs(self, rows_L: NDArray[np.integer], version: int) -> NDArray[np.bool_]:
        """Which rows an upsert may have changed since a snapshot of ``version``."""
        return self._store._newer(self._store._changed_V, rows_L, min(version, self.version))

    def outdated(self, rows_L: NDArray[np.integer], version: int) -> NDArray[np.bool_]:
        """Which rows a delta has changed since a snapshot of ``version``."""
        return self._store._newer(self._store._outdated_V, rows_L, min(version, self.version))

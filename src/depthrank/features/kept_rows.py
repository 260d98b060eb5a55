"""The encoded rows of a catalogue, kept between requests; after an upsert only changed rows are encoded again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue
from depthrank.features.layout import Encoded

Encode = Callable[[Catalogue, NDArray[np.int64]], Encoded]


class KeptRows:
    """Encoded [V] of the last catalogue asked for; a finished matrix is swapped in, never changed."""

    def __init__(self) -> None:
        self._kept: tuple[Catalogue, int, Encoded] | None = None
        self._lock = threading.Lock()

    def of(self, catalogue: Catalogue, encode: Encode) -> Encoded:
        """All rows, as of the catalogue's present generation or a later one. ``encode`` is not kept: it belongs to who
        holds this, and a circle of both, catalogue included, would outlive their use."""
        kept = self._kept
        if kept is not None and kept[0] is catalogue and kept[1] == catalogue.generation:
            return kept[2]
        with self._lock:
            self._kept = self._updated(catalogue, encode)
            return self._kept[2]

    def _updated(self, catalogue: Catalogue, encode: Encode) -> tuple[Catalogue, int, Encoded]:
        kept, generation, size = self._kept, catalogue.generation, catalogue.size
        if kept is None or kept[0] is not catalogue:
            return catalogue, generation, encode(catalogue, np.arange(size))
        rows = catalogue.changed_since(kept[1])
        fresh, old = encode(catalogue, rows), kept[2]
        size = max(size, int(rows.max(initial=0)) + 1, len(old))
        ids = np.zeros((size, old.ids.shape[1]), np.int32)
        floats = np.zeros((size, old.floats.shape[1]), np.float32)
        ids[: len(old)], floats[: len(old)] = old.ids, old.floats
        ids[rows], floats[rows] = fresh.ids, fresh.floats
        return catalogue, generation, Encoded(ids, floats)

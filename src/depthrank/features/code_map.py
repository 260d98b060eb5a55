"""Codes of an event log -> catalogue rows and action bits, cached and extended as the log and the catalogue grow."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue

MAX_ACTIONS = 31  # bits of an int32 that stay positive
_FEW = 1_000  # up to so many ids are asked for one by one; more are read with the whole dictionary

Int32 = NDArray[np.int32]


class Dictionaries(Protocol):
    """What is read of an event log: ids by code, only ever growing."""

    def item_dictionary(self) -> list[str]: ...
    def item_ids(self, codes: Sequence[int]) -> list[str]: ...
    def item_code(self, item: str) -> int | None: ...
    def action_dictionary(self) -> list[str]: ...


class HistoryCodes:
    """``rows`` and ``action_bits`` of a log's codes; safe for several threads (a finished array is swapped in)."""

    def __init__(self, log: Dictionaries, items: Catalogue, actions: Sequence[str]) -> None:
        assert len(actions) <= MAX_ACTIONS, "checked by Spec"
        self._log, self._items = log, items
        self._bit_of = {action: 1 << i for i, action in enumerate(actions)}
        self._state = (items.size, np.zeros(0, np.int32))  # (catalogue size, row of each code)
        self._bits = np.zeros(0, np.int32)
        self._lock = threading.Lock()

    def rows(self, item_codes: Int32) -> Int32:
        """Catalogue row of each item code, int32 [n]; 0 where the catalogue does not know the item (yet)."""
        size, rows = self._state
        needed = int(item_codes.max(initial=-1)) + 1
        if needed > len(rows) or size != self._items.size:
            rows = self._updated(needed)
        return rows.take(item_codes)

    def action_bits(self, action_codes: NDArray[np.int16]) -> Int32:
        """1 << (place among the history actions) of each code, int32 [n]; 0 for other actions."""
        bits = self._bits
        if int(action_codes.max(initial=-1)) >= len(bits):
            bits = np.array([self._bit_of.get(a, 0) for a in self._log.action_dictionary()], np.int32)
            self._bits = bits
        return bits.take(action_codes)

    def _updated(self, needed: int) -> Int32:
        with self._lock:
            known_size, rows = self._state
            size = self._items.size
            if size - known_size > _FEW or needed - len(rows) > _FEW:
                rows = self._items.row_of(self._log.item_dictionary()).astype(np.int32)
            else:
                rows = self._with_new_codes(self._with_new_items(rows, known_size, size), needed)
            self._state = (size, rows)
            return rows

    def _with_new_items(self, rows: Int32, known_size: int, size: int) -> Int32:
        """Codes whose item came into the catalogue after its events came into the log."""
        rows = rows.copy()
        for row, item in enumerate(self._items.ids[known_size:size], known_size):
            code = self._log.item_code(item)
            if code is not None and code < len(rows):
                rows[code] = row
        return rows

    def _with_new_codes(self, rows: Int32, needed: int) -> Int32:
        new = range(len(rows), needed)
        return np.concatenate([rows, self._items.row_of(self._log.item_ids(new)).astype(np.int32)]) if new else rows

"""What counters count by: users, items and their column values as dense codes 1, 2, ...; code 0 is no key.

Catalogue values get their codes as soon as the catalogue holds them, before any event does. So the code of a row never
changes while its value stays, and the row -> code array of a catalogue can be kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue, NumberColumn, TextColumn, texts_of
from depthrank.errors import SpecError

Codes = NDArray[np.int64]


class KeyDictionary:
    """Text -> code, append-only; an erased text leaves its code without a name."""

    def __init__(self, texts: Sequence[str] = ("",)) -> None:
        self.texts = list(texts)
        self._code_of = {text: code for code, text in enumerate(self.texts) if code and text}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.texts)

    def codes(self, texts: Sequence[str]) -> Codes:
        """int64 [n]; 0 for an unknown text."""
        return np.fromiter(map(self._code_of.get, texts, repeat(0)), np.int64, len(texts))

    def intern(self, texts: Sequence[str]) -> Codes:
        """As ``codes``, giving new codes to unknown texts; the empty text is no key."""
        with self._lock:
            known = self._code_of
            for text in texts:
                if text not in known and text:
                    known[text] = len(self.texts)
                    self.texts.append(text)
        return self.codes(texts)

    def forget(self, text: str) -> int:
        """Remove the text; returns the code it had (0: none)."""
        with self._lock:
            code = self._code_of.pop(text, 0)
            if code:
                self.texts[code] = ""
            return code


class RowKeys:
    """The key code of every row of a catalogue, by id (``column`` None) or by the value of a column.

    Without a catalogue only ids can be asked for.
    """

    def __init__(self, catalogue: Catalogue | None, column: str | None, dictionary: KeyDictionary) -> None:
        self._catalogue, self._column, self.dictionary = catalogue, column, dictionary
        self._state = (-1, np.zeros(0, np.int64))  # (generation, codes)
        self._lock = threading.Lock()
        if column is not None and not isinstance(self._rows.column(column), (NumberColumn, TextColumn)):
            raise SpecError(f"a counter cannot count by {self._rows.entity}.{column}: expected one value a row")

    @property
    def _rows(self) -> Catalogue:
        assert self._catalogue is not None, "users are counted by id without a catalogue"
        return self._catalogue

    def of_rows(self, rows: NDArray[np.int64]) -> Codes:
        """int64 [n]; 0 for the unknown row and for a missing value."""
        generation, codes = self._state
        if generation != self._rows.generation:
            codes = self._update()
        return codes.take(rows)

    def of_ids(self, ids: Sequence[str]) -> Codes:
        """Key codes of entity ids. By id, an id the catalogue does not know is a key of its own."""
        if self._column is None:
            return self.dictionary.codes(ids)
        return self.of_rows(self._rows.row_of(ids))

    def intern_ids(self, ids: Sequence[str]) -> Codes:
        """As ``of_ids``; by id, unknown ids get codes."""
        return self.dictionary.intern(ids) if self._column is None else self.of_ids(ids)

    def _update(self) -> Codes:
        with self._lock:
            seen, codes = self._state
            generation, size = self._rows.generation, self._rows.size
            rows = self._rows.changed_since(seen) if seen >= 0 else np.arange(size, dtype=np.int64)
            grown = np.zeros(max(size, int(rows.max(initial=0)) + 1), np.int64)
            grown[: len(codes)] = codes
            grown[rows] = self._intern_rows(rows)
            self._state = (generation, grown)
            return grown

    def _intern_rows(self, rows: NDArray[np.int64]) -> Codes:
        if self._column is None:
            return self.dictionary.intern(self._rows.ids_of(rows))
        column = self._rows.column(self._column).take(rows)
        if isinstance(column, TextColumn):
            codes, index = np.unique(column.codes, return_inverse=True)
            return self.dictionary.intern([column.dictionary[c] for c in codes.tolist()])[index]
        assert isinstance(column, NumberColumn), "checked when made"
        values, index = np.unique(column.values, return_inverse=True)
        keys = self.dictionary.intern([text or "" for text in texts_of(values)])
        return np.where(column.missing, 0, keys[index])

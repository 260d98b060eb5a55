"""The writer's side of a column: buffers with spare room behind the published rows.

Rows that a reader may see are never written: changing one copies the buffer first. Rows behind the published size are
invisible, so new rows are written in place, and only a full buffer is copied, with room to spare. A mapped buffer has
no spare room, hence the first change moves it to private memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue.columns import Column, ListColumn, NumberColumn, TextColumn, VectorColumn
from depthrank.catalogue.parse_upsert import Parsed, ParsedLists, ParsedNumbers, ParsedTexts, ParsedVectors


def writable(buffer: NDArray[Any], used: int, needed: int, changes_used: bool) -> NDArray[Any]:
    """``buffer`` itself where its first ``used`` entries stay and ``needed`` fit; else a copy with spare room."""
    if needed <= len(buffer) and not changes_used:
        return buffer
    room = needed if needed <= len(buffer) else max(needed + needed // 2, 16)
    copy = np.empty((max(room, len(buffer)), *buffer.shape[1:]), buffer.dtype)
    copy[:used] = buffer[:used]
    return copy


class ColumnStore:
    """The buffers of one column; ``write`` is called by one thread at a time."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._codes: dict[str, int] | None = None
        if isinstance(column, (NumberColumn, VectorColumn)):
            self._buffers: list[NDArray[Any]] = [column.values, column.missing]
        elif isinstance(column, TextColumn):
            self._buffers = [column.codes]
        else:
            self._buffers = [column.starts, column.stops, column.pool]
            self._pool_used = len(column.pool)

    @property
    def column(self) -> Column:
        """The published rows."""
        return self._column

    def written(self, size: int, rows: NDArray[np.int64], parsed: Parsed | None) -> Column:
        """The column with ``size`` rows, ``parsed`` written to ``rows`` and other new rows missing; publishes it."""
        visible = len(self._column)
        changes = parsed is not None and bool((rows < visible).any())
        if isinstance(parsed, ParsedNumbers) and parsed.values.dtype.kind == "f" and self._buffers[0].dtype.kind == "i":
            self._buffers[0] = self._buffers[0].astype(np.float64)  # the first fraction in a column of integers
        per_row = 2 if len(self._buffers) > 1 else 1
        for i in range(per_row):
            self._buffers[i] = writable(self._buffers[i], visible, size, changes)
            fill_missing = i == 1 and not isinstance(self._column, ListColumn)
            if size > visible:  # else the buffer may be the mapped file's, which cannot be written
                self._buffers[i][visible:size] = fill_missing
        if parsed is not None:
            self._write(rows, parsed)
        self._column = self._published(size)
        return self._column

    def _write(self, rows: NDArray[np.int64], parsed: Parsed) -> None:
        if isinstance(parsed, (ParsedNumbers, ParsedVectors)):
            self._buffers[0][rows] = parsed.values
            self._buffers[1][rows] = parsed.missing
        elif isinstance(parsed, ParsedTexts):
            self._buffers[0][rows] = [0 if text is None else self._code(text) for text in parsed.texts]
        else:
            self._write_lists(rows, parsed)

    def _write_lists(self, rows: NDArray[np.int64], parsed: ParsedLists) -> None:
        codes = [self._code(text) for texts in parsed.lists for text in texts]
        stops = self._pool_used + np.cumsum([len(texts) for texts in parsed.lists], dtype=np.int64)
        used = self._pool_used + len(codes)
        self._buffers[2] = writable(self._buffers[2], self._pool_used, used, False)
        self._buffers[2][self._pool_used : used] = codes
        self._buffers[0][rows] = np.concatenate([[self._pool_used], stops[:-1]])
        self._buffers[1][rows] = stops
        self._pool_used = used

    def _code(self, text: str) -> int:
        dictionary = self._dictionary
        if self._codes is None:
            self._codes = {known: code for code, known in enumerate(dictionary) if code}
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(dictionary)
            dictionary.append(text)
        return code

    @property
    def _dictionary(self) -> list[str]:
        assert isinstance(self._column, (TextColumn, ListColumn))
        return self._column.dictionary

    def _published(self, size: int) -> Column:
        buffers: Sequence[Any] = self._buffers
        if isinstance(self._column, NumberColumn):
            return NumberColumn(buffers[0][:size], buffers[1][:size])
        if isinstance(self._column, VectorColumn):
            return VectorColumn(buffers[0][:size], buffers[1][:size])
        if isinstance(self._column, TextColumn):
            return TextColumn(buffers[0][:size], self._dictionary)
        return ListColumn(buffers[0][:size], buffers[1][:size], buffers[2], self._dictionary)

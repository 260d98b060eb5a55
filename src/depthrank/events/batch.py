"""Events as columns: what is appended to the log, and what ``scan`` gives back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

NO_POSITION = -1


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """n events, one row an event; every column that is given has n rows.

    user, item, action: ids; they compare as strings.
    time_ms: int64 [n], when it happened (milliseconds since 1970, UTC).
    appended_ms: int64 [n], when the log learned of it; None: the log stamps it (``import_events``: equal to time_ms).
    event_id: an event whose id the log knows already is not appended again; None (or a None row): no check.
    request_id, position: the request that showed the item and the place it was shown at (int32 [n], -1 = none).
    extra: an opaque payload a row (msgpack by convention: context, candidate columns, decision), or None.
    log_position: int64 [n], set when read back; ignored by ``append``.
    """

    user: Sequence[str]
    item: Sequence[str]
    action: Sequence[str]
    time_ms: Int64
    appended_ms: Int64 | None = None
    event_id: Sequence[str | None] | None = None
    request_id: Sequence[str | None] | None = None
    position: Int32 | None = None
    extra: Sequence[bytes | None] | None = None
    log_position: Int64 | None = None

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: slice) -> EventBatch:
        """The same columns, those rows only."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        return EventBatch(**taken)

    def pieces(self, rows: int) -> Iterator[EventBatch]:
        """The batch in pieces of at most ``rows`` rows."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

"""A user's events as of a time: the answer types, and the one place that decides what is visible.

An event is visible as of t when ``time_ms < t`` and ``appended_ms <= t``. Backends store a user's events as fixed-width
rows (``ROW``) in the order (time_ms, log position); everything below works on such rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from depthrank.events.batch import Int16, Int32, Int64

ROW = np.dtype(
    [
        ("time_ms", "<i8"),
        ("appended_ms", "<i8"),
        ("log_position", "<i8"),
        ("item_code", "<i4"),
        ("action_code", "<i2"),
        ("reserved", "<u2"),
    ]
)
ROW_BYTES = ROW.itemsize
assert ROW_BYTES == 32
Rows = npt.NDArray[np.void]


class History(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One user's events as of a time, oldest first, in the order (time_ms, log position); L rows.

    The columns may be strided views of one buffer that belongs to this history alone.
    """

    item_code: Int32
    action_code: Int16
    time_ms: Int64
    appended_ms: Int64
    log_position: Int64

    def __len__(self) -> int:
        return len(self.item_code)


@dataclass(frozen=True, slots=True, eq=False)
class HistoryBatch:
    """n histories, one after the other: the i-th is rows ``offsets[i]:offsets[i + 1]`` of every column.

    offsets: int64 [n + 1]; item_code: int32, action_code: int16, the others int64, [offsets[n]] each.
    """

    offsets: Int64
    item_code: Int32
    action_code: Int16
    time_ms: Int64
    appended_ms: Int64
    log_position: Int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> History:
        start, stop = self.offsets[i], self.offsets[i + 1]
        return History(
            self.item_code[start:stop],
            self.action_code[start:stop],
            self.time_ms[start:stop],
            self.appended_ms[start:stop],
            self.log_position[start:stop],
        )


def history_of_rows(rows: Rows) -> History:
    """The rows as columns (views)."""
    return History(rows["item_code"], rows["action_code"], rows["time_ms"], rows["appended_ms"], rows["log_position"])


def join_rows(parts: Sequence[bytes | Rows]) -> Rows:
    """Rows, packed or not, in one writable buffer of their own; np.concatenate takes 20 times as long for such rows."""
    return np.frombuffer(bytearray().join(cast(Sequence[bytes], parts)), dtype=ROW)


NO_ROWS = np.empty(0, dtype=ROW)
NO_HISTORY = history_of_rows(NO_ROWS)


def with_actions(rows: Rows, action_codes: Collection[int] | None) -> Rows:
    """The rows whose action is listed (None: all)."""
    if action_codes is None:
        return rows
    actions, mask = rows["action_code"], np.zeros(len(rows), dtype=bool)
    for code in action_codes:
        mask |= actions == code
    return pick_rows(rows, mask)


def visible_rows(rows: Rows, as_of_ms: int, all_arrived: bool = False) -> Rows:
    """The rows visible as of a time; all_arrived: none was appended after it."""
    rows = rows[: int(rows["time_ms"].searchsorted(as_of_ms))]
    return rows if all_arrived else pick_rows(rows, rows["appended_ms"] <= as_of_ms)


def pick_rows(rows: Rows, mask: npt.NDArray[np.bool_]) -> Rows:
    """``rows[mask]``, 15 times as fast for structured rows."""
    return rows if mask.all() else rows.take(mask.nonzero()[0])


def batch_of_one(history: History) -> HistoryBatch:
    """One history as a batch."""
    columns = [np.ascontiguousarray(getattr(history, name)) for name in _BATCH_COLUMNS]
    return HistoryBatch(np.array([0, len(history)]), *columns)


def batch_of_rows(rows_of_user: Sequence[Rows], user_of_request: Int64, as_of_ms: Int64, limit: int) -> HistoryBatch:
    """The histories of n requests, given each user's rows (already of the wanted actions) in order.

    user_of_request: int64 [n], index into ``rows_of_user``; as_of_ms: int64 [n].
    """
    requests = len(as_of_ms)
    starts, stops = np.zeros(requests, np.int64), np.zeros(requests, np.int64)
    picked: dict[int, Int64] = {}  # request -> its row numbers, where they are not one range
    base_of_user = np.concatenate([[0], np.cumsum([len(rows) for rows in rows_of_user], dtype=np.int64)])
    by_user = np.argsort(user_of_request, kind="stable")
    cuts = np.searchsorted(user_of_request[by_user], np.arange(len(rows_of_user) + 1))
    for user, rows in enumerate(rows_of_user):
        own = by_user[cuts[user] : cuts[user + 1]]
        if not len(rows):
            continue
        as_of, base = as_of_ms[own], base_of_user[user]
        ends = np.searchsorted(rows["time_ms"], as_of)
        newest_arrival = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(rows["appended_ms"])])
        starts[own], stops[own] = base + np.maximum(ends - limit, 0), base + ends
        for request, end in zip(own[newest_arrival[ends] > as_of], ends[newest_arrival[ends] > as_of]):
            seen = np.flatnonzero(rows["appended_ms"][:end] <= as_of_ms[request])
            picked[int(request)] = base + seen[max(len(seen) - limit, 0) :]
            starts[request], stops[request] = 0, len(picked[int(request)])
    offsets = np.concatenate([[0], np.cumsum(stops - starts)])
    numbers = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], stops - starts)
    for request, chosen in picked.items():
        numbers[offsets[request] : offsets[request + 1]] = chosen
    rows = join_rows(rows_of_user)
    return HistoryBatch(offsets, *(rows[name][numbers] for name in _BATCH_COLUMNS))


_BATCH_COLUMNS = ("item_code", "action_code", "time_ms", "appended_ms", "log_position")

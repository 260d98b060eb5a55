"""Served requests whose labels are awaited, held small: 200,000 of their items may wait for days.

Legend: K tasks, N items of a request.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import msgspec


class ShownRequest:
    """A request's items with the probability of each task [K, N], and which tasks came for which of them."""

    __slots__ = ("_came", "_items", "_p_KN", "_tasks", "model", "num_items", "time_ms", "user")

    def __init__(
        self, user: str, model: str, time_ms: int, tasks: tuple[str, ...], scores: Mapping[str, Mapping[str, float]]
    ) -> None:
        """``scores``: item -> task -> probability; a task that is missing counts for nothing."""
        self.user, self.model, self.time_ms = user, model, time_ms
        self.num_items = len(scores)
        self._tasks = tasks
        self._items = msgspec.msgpack.encode(list(scores))  # texts in one piece: a tenth of the memory of each alone
        self._p_KN = array("d", (own.get(task, math.nan) for task in tasks for own in scores.values()))
        self._came: dict[int, set[str]] | None = None

    def row_of(self, item: str) -> int | None:
        """Which row of the request the item is; None where it is none."""
        if item.encode() not in self._items:  # most are not, and this is quick
            return None
        items = msgspec.msgpack.decode(self._items, type=list[str])
        return items.index(item) if item in items else None

    def came(self, row: int, task: str) -> None:
        """The action of a task came for an item."""
        if self._came is None:
            self._came = {}
        self._came.setdefault(row, set()).add(task)

    def labelled(self, task: str) -> Iterator[tuple[float, bool]]:
        """Each item's probability and whether the action came."""
        first, came = self._tasks.index(task) * self.num_items, self._came or {}
        for row in range(self.num_items):
            probability = self._p_KN[first + row]
            if not math.isnan(probability):
                yield probability, task in came.get(row, ())


class ShownRequests:
    """Those that wait, by their id and by their user, oldest first, until each task's window has closed."""

    def __init__(self, windows_ms: Mapping[str, int]) -> None:
        self.num_items = 0
        self._shown: dict[str, ShownRequest] = {}
        self._of_user: dict[str, OrderedDict[str, None]] = {}
        self._due: dict[int, OrderedDict[str, None]] = {window_ms: OrderedDict() for window_ms in windows_ms.values()}
        self._tasks_of: dict[int, list[str]] = {window_ms: [] for window_ms in self._due}
        for task, window_ms in windows_ms.items():
            self._tasks_of[window_ms].append(task)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._shown

    def add(self, request_id: str, shown: ShownRequest) -> None:
        """One more waits."""
        self._shown[request_id] = shown
        self.num_items += shown.num_items
        self._of_user.setdefault(shown.user, OrderedDict())[request_id] = None
        for due in self._due.values():
            due[request_id] = None

    def find(self, request_id: str, item: str) -> tuple[ShownRequest, int] | None:
        """A request and the item's row in it."""
        shown = self._shown.get(request_id)
        row = None if shown is None else shown.row_of(item)
        return None if shown is None or row is None else (shown, row)

    def newest(self, user: str, item: str) -> tuple[ShownRequest, int] | None:
        """The user's newest request that showed the item, and its row in it."""
        found = (self.find(request_id, item) for request_id in reversed(self._of_user.get(user, {})))
        return next(filter(None, found), None)

    def closed(self, now_ms: int) -> Iterator[tuple[ShownRequest, Iterable[str]]]:
        """Requests whose window has closed, each with the tasks of that window; one waits for its longest."""
        for window_ms, due in self._due.items():
            while due:
                request_id = next(iter(due))
                shown = self._shown[request_id]
                if shown.time_ms + window_ms >= now_ms:
                    break
                del due[request_id]
                yield shown, self._tasks_of[window_ms]
                if not any(request_id in others for others in self._due.values()):
                    self._drop(request_id)

    def forget(self, user: str) -> None:
        """Drop what waits of a user."""
        for request_id in list(self._of_user.get(user, ())):
            self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        shown = self._shown.pop(request_id)
        self.num_items -= shown.num_items
        own = self._of_user[shown.user]
        del own[request_id]
        if not own:
            del self._of_user[shown.user]
        for due in self._due.values():
            due.pop(request_id, None)

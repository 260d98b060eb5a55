"""The user-state cache: encoded histories by model version and user, with a byte limit; the longest unused goes first.

A state is never trusted by its age or a log position. Every request reads its history anew and compares its tokens with
those that the state was encoded from: what is equal from the start on is kept, the rest is encoded. So an arrival, a
late event, an erasure, retention and a moved window are all the same case, and what is returned is what encoding the
whole history would give. A token whose item has been encoded anew by an upsert counts as another token.

States are values: requests share their tensors and never change them in place, so no lock is held while one computes.

Legend: L history tokens, P = L + 1 positions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from depthrank.model import UserState

DEFAULT_STATE_BYTES = 256 << 20
Key = tuple[str, str]
Warmth = Literal["warm", "extended", "cold"]  # all, some or none of the history's tokens were encoded already
_COUNTED: dict[Warmth, str] = {"warm": "hits", "extended": "extends", "cold": "misses"}


@dataclass(frozen=True)
class HistoryTokens:
    """What a state depends on: row, actions and gap bucket of each token, int32 [3, L], oldest first."""

    values_3L: NDArray[np.int32]

    def __len__(self) -> int:
        return int(self.values_3L.shape[1])

    @property
    def rows_L(self) -> NDArray[np.int32]:
        """Catalogue rows."""
        row: NDArray[np.int32] = self.values_3L[0]
        return row

    def common_prefix(self, other: HistoryTokens) -> int:
        """How many tokens are equal from the start on."""
        shorter = min(len(self), len(other))
        differs = (self.values_3L[:, :shorter] != other.values_3L[:, :shorter]).any(axis=0)
        return int(differs.argmax()) if differs.any() else shorter


@dataclass(frozen=True)
class EncodedUser:
    """A history and its state.

    ``item_version``: of the item store whose vectors went into it, as far as upserts go. ``made_by``, ``made_version``:
    the newest delta that was applied then, and the item store's version.
    """

    tokens: HistoryTokens
    state: UserState
    item_version: int
    made_by: int = 0
    made_version: int = 0


@dataclass
class StateCounts:
    """How requests found their user's state, and what the cache holds."""

    hits: int = 0
    extends: int = 0
    misses: int = 0
    older: int = 0
    evicted: int = 0
    users: int = 0
    bytes: int = 0


class UserStates:
    """The cache; ``limit_bytes`` 0 keeps nothing. Safe for several threads."""

    def __init__(self, limit_bytes: int = DEFAULT_STATE_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, tuple[EncodedUser, int]] = OrderedDict()
        self._counts = StateCounts()
        self._erasures = 0

    def ticket(self) -> int:
        """Take one before the history is read; ``put`` refuses what was read before an erasure."""
        return self._erasures

    def find(self, key: Key) -> EncodedUser | None:
        """The user's state, whatever history it is of."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: Key, encoded: EncodedUser, ticket: int) -> None:
        """Keep a state in place of the user's former one, unless somebody was erased since ``ticket``."""
        if not self.limit_bytes:
            return
        encoded = replace(encoded, state=encoded.state.compact())
        size = encoded.state.nbytes + encoded.tokens.values_3L.nbytes
        with self._lock:
            if ticket != self._erasures:
                return
            self._drop(key)
            if size > self.limit_bytes:
                return
            self._held[key] = encoded, size
            self._counts.bytes += size
            while self._counts.bytes > self.limit_bytes:
                self._drop(next(iter(self._held)))
                self._counts.evicted += 1

    def latest(self, users: int) -> list[str]:
        """The users asked for last, the latest first."""
        with self._lock:
            keys = [user for _, user in reversed(self._held)]
        return list(dict.fromkeys(keys))[:users]

    def forget(self, user: str) -> None:
        """Drop a user's states; call it once the log has forgotten the user."""
        with self._lock:
            self._erasures += 1
            for key in [key for key in self._held if key[1] == user]:
                self._drop(key)

    def count(self, warmth: Warmth, older: bool = False) -> None:
        """Note how a request found its user's state; ``older``: it was encoded before the newest delta."""
        with self._lock:
            self._counts.older += older
            setattr(self._counts, _COUNTED[warmth], getattr(self._counts, _COUNTED[warmth]) + 1)

    def counts(self) -> dict[str, int]:
        """Hits, extends, misses and evictions so far; users and bytes now."""
        with self._lock:
            self._counts.users = len(self._held)
            return asdict(self._counts)

    def _drop(self, key: Key) -> None:
        if key in self._held:
            self._counts.bytes -= self._held.pop(key)[1]

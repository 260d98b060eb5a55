"""Histories of many requests as prefixes of few sequences, straight from columns.

Windows start at anchors, so histories of one user as of nearby times are prefixes of one another. Here every token of
the users is encoded once a run; a request's window is then two searches, the requests whose windows start at the same
token share one sequence, and a batch holds each sequence once instead of a padded row a request (a million requests of
MovieLens-1M: 40,000 sequences). The result is the same, token by token, as encoding each request by itself (a test
compares them). A request that may not know all of it yet, because an event arrived late, gets a sequence of its own.

Shape letters: R requests, S sequences, L longest sequence, T tokens (flat, by user, oldest first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.data.histories_in_memory import HistoriesInMemory
from depthrank.features import EncodedHistory, HistoryCodes
from depthrank.features.exact_math import log2_bucket
from depthrank.features.history import encode_history, tokens_of
from depthrank.features.window_anchor import hash_of_time, window_starts

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SharedHistory:
    """R histories as prefixes of S sequences.

    sequences: [S] padded tokens (their ``ages`` are zeros); time_ms: int64 [S, L]; sequence_of_request: int64 [R];
    length: int32 [R], how many tokens of its sequence a request reads.
    """

    sequences: EncodedHistory
    time_ms: Int64
    sequence_of_request: Int64
    length: npt.NDArray[np.int32]

    def ages(self, requests: Int64, as_of_ms: Int64) -> npt.NDArray[np.int32]:
        """Age buckets of the tokens of some requests (as of a time each), int32 [r, L]; 0 beyond what each reads."""
        time_ms = self.time_ms[self.sequence_of_request[requests]]
        read = np.arange(time_ms.shape[1]) < self.length[requests, None]
        return np.where(read, log2_bucket(np.where(read, as_of_ms[:, None] - time_ms, 0)), 0).astype(np.int32)

    def of_requests(self, as_of_ms: Int64) -> EncodedHistory:
        """The histories request by request, [R]: for what looks at candidates beside them."""
        rows = self.sequence_of_request
        sequences, ages = self.sequences, self.ages(np.arange(len(rows)), as_of_ms)
        return EncodedHistory(sequences.rows[rows], sequences.actions[rows], sequences.gaps[rows], ages, self.length)


class TokenHistories:
    """The tokens of a fixed set of users, and the windows of requests over them."""

    def __init__(
        self,
        memory: HistoriesInMemory,
        codes: HistoryCodes,
        max_length: int,
        event_limit: int,
        min_length: int | None = None,
    ) -> None:
        """``min_length``: requests may leave out their oldest tokens to share a sequence, down to so many."""
        self._min_length = min_length if min_length is not None and min_length < max_length else None
        self._memory, self._codes = memory, codes
        self._max_length, self._event_limit = max_length, event_limit
        tokens = tokens_of(memory.events, codes)
        self._columns = (codes.rows(tokens.item_code), tokens.actions, log2_bucket(tokens.gap_ms), tokens.time_ms)
        self._event = tokens.event
        self._key = memory.keys_of(tokens.history, tokens.time_ms)
        self._first_of_user = np.searchsorted(tokens.history, np.arange(len(memory.events)))
        self._hash = hash_of_time(tokens.time_ms)

    def shared(self, users: Sequence[str], as_of_ms: Int64) -> SharedHistory:
        """The histories of R (user, time) pairs."""
        code = self._memory.codes_of(users)
        stop = np.searchsorted(self._key, self._memory.keys_of(code, as_of_ms))
        first = self._first_of_user[code]
        start = self._starts(first, stop)
        regular = self._memory.all_arrived(code, as_of_ms) & self._within_limit(first, stop, code, as_of_ms)
        if self._min_length is not None:
            start[regular] = _merged(start[regular], stop[regular], self._min_length)
        # tokens lie by user, so a start names its user too; windows that start together are prefixes of the longest
        starts, sequence = np.unique(start[regular], return_inverse=True)
        stops = starts.copy()
        np.maximum.at(stops, sequence, stop[regular])
        alone = np.flatnonzero(~regular)
        matrices, lengths = self._alone([users[r] for r in alone.tolist()], as_of_ms[alone])
        length, sequence_of_request = np.zeros(len(users), np.int32), np.zeros(len(users), np.int64)
        length[regular], length[alone] = (stop - start)[regular], lengths
        sequence_of_request[regular], sequence_of_request[alone] = sequence.ravel(), len(starts) + np.arange(len(alone))
        return _joined(self._padded(starts, stops), stops - starts, matrices, lengths, sequence_of_request, length)

    def _starts(self, first: Int64, stop: Int64) -> Int64:
        """Where the window of each history of tokens [first, stop) starts; see ``features.window_anchor``."""
        start = np.maximum(first, stop - self._max_length)
        long = np.flatnonzero(stop - first > self._max_length)
        if self._max_length:
            start[long] = window_starts(self._hash, stop[long], self._max_length)
        return start

    def _within_limit(self, first: Int64, stop: Int64, code: Int64, as_of_ms: Int64) -> npt.NDArray[np.bool_]:
        """Whether the events read hold every token of the window and one before it; repeated events may not."""
        needed = np.maximum(stop - self._max_length - 1, first)
        begins = np.append(self._event, 0)[np.where(stop > first, needed, -1)]
        earliest = self._memory.stops_of(code, as_of_ms) - self._event_limit
        return np.asarray((stop == first) | (begins >= earliest), dtype=np.bool_)

    def _padded(self, start: Int64, stop: Int64) -> list[npt.NDArray[Any]]:
        """Rows, actions, gaps and times of tokens [start, stop), padded by zeros, [S, L] each."""
        place = np.arange(int((stop - start).max(initial=0)))
        inside = place < (stop - start)[:, None]
        token = np.where(inside, start[:, None] + place, 0)
        padded = [np.where(inside, c[token], 0) if len(c) else np.zeros(token.shape, c.dtype) for c in self._columns]
        padded[2][:, :1] = 0  # the first token of a window has no gap
        return padded

    def _alone(self, users: list[str], as_of_ms: Int64) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.int32]]:
        """The same of requests that share with none, as serving encodes them, and their lengths."""
        events = self._memory.histories(users, as_of_ms, self._event_limit)
        encoded, tokens = (
            encode_history(events, self._codes, as_of_ms, self._max_length),
            tokens_of(events, self._codes),
        )
        place = np.arange(len(tokens.history)) - (
            np.searchsorted(tokens.history, tokens.history, "right") - encoded.length[tokens.history]
        )
        time_ms = np.zeros(encoded.rows.shape, np.int64)
        time_ms[tokens.history[place >= 0], place[place >= 0]] = tokens.time_ms[place >= 0]
        return [encoded.rows, encoded.actions, encoded.gaps, time_ms], encoded.length


def _merged(start: Int64, stop: Int64, min_length: int) -> Int64:
    """Later starts for some of the windows [start, stop), so that more of them are equal; ``min_length`` tokens stay.

    From the newest window down: a window begins where the one after it does, if that leaves it long enough.
    """
    order = np.lexsort((stop, start))
    merged, shared, last = start.copy(), np.iinfo(np.int64).max, len(order)
    for first in np.flatnonzero(np.r_[True, np.diff(start[order]) != 0])[::-1].tolist():
        group = order[first:last]  # windows of one start, shortest first; tokens lie by user, so starts do too
        enough = stop[group] - min_length >= shared
        merged[group[enough]] = shared
        if not enough.all():
            shared = int(start[group[0]])
        last = first
    return merged


def _joined(
    shared: list[npt.NDArray[Any]],
    shared_length: Int64,
    alone: list[npt.NDArray[Any]],
    alone_length: npt.NDArray[np.int32],
    sequence_of_request: Int64,
    length: npt.NDArray[np.int32],
) -> SharedHistory:
    """Both kinds of sequences in one, no wider than the longest."""
    lengths = np.concatenate((shared_length, alone_length)).astype(np.int32)
    longest = int(lengths.max(initial=0))

    def fitted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        cut = values[:, :longest]
        return np.pad(cut, ((0, 0), (0, longest - cut.shape[1])))

    rows, actions, gaps, time_ms = (np.concatenate((fitted(a), fitted(b))) for a, b in zip(shared, alone, strict=True))
    sequences = EncodedHistory(rows, actions, gaps, np.zeros_like(rows), lengths)
    return SharedHistory(sequences, time_ms, sequence_of_request, length)

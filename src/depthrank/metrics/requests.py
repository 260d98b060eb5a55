"""Flat candidates and the requests they belong to: order within a request, without a Python loop.

Shape letters: R requests, N candidates (flat over requests; request r holds rows offsets[r]:offsets[r+1]).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def request_of_candidate(offsets: Ints) -> npt.NDArray[np.int64]:
    """The request row of each candidate, int64 [N], from ``offsets`` [R+1]."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def scramble(row: Ints) -> npt.NDArray[np.uint64]:
    """A fixed pseudo-random key for each row number: breaks ties without favouring the input order.

    Positives often come first in the input, so a stable sort of tied scores would flatter a model that cannot tell
    candidates apart.
    """
    mixed = (row.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX
    return np.asarray(mixed ^ (mixed >> np.uint64(27)), dtype=np.uint64)


def rank_in_request(score: Floats, offsets: Ints, tie: npt.NDArray[np.generic] | None = None) -> npt.NDArray[np.int64]:
    """The rank (0 = best) of each candidate within its request, int64 [N].

    Higher ``score`` [N] first; NaN last; ties by ascending ``tie`` [N], by default a fixed pseudo-random key.
    """
    assert len(score) == int(offsets[-1]), (len(score), int(offsets[-1]))
    request = request_of_candidate(offsets)
    tie = scramble(np.arange(len(score))) if tie is None else tie
    order = np.lexsort((tie, -np.asarray(score, dtype=np.float64), request))
    rank = np.empty(len(score), dtype=np.int64)
    rank[order] = np.arange(len(score)) - np.repeat(offsets[:-1], np.diff(offsets))
    return rank


def top_rows(rank: Ints, offsets: Ints, k: int) -> npt.NDArray[np.int64]:
    """Candidate rows of each request's top ``k``, int64 [R, k]; -1 where a request has fewer candidates."""
    table = np.full((len(offsets) - 1, k), -1, dtype=np.int64)
    rows = np.flatnonzero(rank < k)
    table[request_of_candidate(offsets)[rows], rank[rows]] = rows
    return table

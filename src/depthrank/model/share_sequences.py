"""Requests of one user share one encoded history where one is a prefix of the other.

The encoder is causal and a window starts at an anchor (see ``features.history``), so histories of one user as of nearby
times are prefixes of the longest of them. Encoding that one gives all their states: user-side work is done once a user
and anchor, not once a request. Nothing is assumed: a history that is no exact prefix keeps a sequence of its own.

Legend: R requests, S sequences, L history length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthrank.features import EncodedHistory


@dataclass(frozen=True)
class SharedSequences:
    """``leader_S``: the requests whose histories are encoded; ``sequence_of_request_R``: which of them each reads."""

    leader_S: NDArray[np.int64]
    sequence_of_request_R: NDArray[np.int64]


def share_sequences(history: EncodedHistory, user: Sequence[str]) -> SharedSequences:
    """Group R histories by user and first token; the longest of a group leads those that are its prefixes."""
    num_requests = len(history)
    _, user_code = np.unique(np.asarray(user, dtype=str), return_inverse=True)
    first = history.rows[:, 0] if history.rows.shape[1] else np.zeros(num_requests, np.int32)
    empty = history.length == 0
    key = np.stack((np.where(empty, -1, user_code), np.where(empty, 0, first)))
    _, group = np.unique(key, axis=1, return_inverse=True)
    group = group.ravel()
    order = np.lexsort((-history.length, group))
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    leader_of_group = order[starts]
    leader = leader_of_group[group]
    leader = np.where(_is_prefix(history, leader), leader, np.arange(num_requests))
    leaders, sequence = np.unique(leader, return_inverse=True)
    return SharedSequences(leaders.astype(np.int64), sequence.ravel().astype(np.int64))


def _is_prefix(history: EncodedHistory, leader: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each history equals the beginning of its leader's, token by token."""
    inside = np.arange(history.rows.shape[1]) < history.length[:, None]
    same = np.ones(len(history), dtype=np.bool_)
    for column in (history.rows, history.actions, history.gaps):
        same &= ((column == column[leader]) | ~inside).all(axis=1)
    return same

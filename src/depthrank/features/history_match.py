"""Does a candidate's item, or its author, brand or place, occur in the history of its request: how often, how lately.

Embeddings learn that two items are alike, hardly that they are the same one, and not at all for items that training
saw too rarely for a vocabulary entry. Catalogue rows tell sameness exactly. Per candidate, over the history tokens as
of the request (those of ``actions`` only, where the feature names some):

    ln(1 + tokens of the same value),  1 / (1 + tokens since the newest of them),  1 - its age bucket / 32

all 0 where there is none. A number to compare adds its signed ln(1 + |difference|) to that of the request's candidate
touched last, and whether there is none. A row's result depends on its own request alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue, NumberColumn, TextColumn
from depthrank.features.exact_math import log1p, log1p_of_count
from depthrank.features.layout import EncodedHistory

Int64 = NDArray[np.int64]
NUM_FLOATS = 3
NEWEST = 1  # the float column that orders matches: 1 is the newest token
FLOATS_A_COMPARISON = 2
_AGE_BUCKETS = 32.0
_NO_VALUE = -1


@dataclass(frozen=True)
class MatchPlan:
    """What a history_match feature compares: the item itself (``column`` None) or a column; ``action_bits`` of the
    history's actions that count."""

    column: str | None
    action_bits: int


def match_floats(
    plan: MatchPlan, items: Catalogue, history: EncodedHistory, item_rows: Int64, request_of_candidate: Int64
) -> NDArray[np.float32]:
    """float32 [N, 3] of N candidates. ``history``: of R requests; item_rows, request_of_candidate: int64 [N]."""
    out = np.zeros((len(item_rows), NUM_FLOATS), np.float32)
    inside = np.arange(history.rows.shape[1]) < history.length[:, None]
    inside &= (history.actions & plan.action_bits) != 0
    request, place = np.nonzero(inside)  # by request, oldest first
    rows = np.concatenate((history.rows[request, place].astype(np.int64), item_rows))
    value, known = _values(items, plan.column, rows)
    num_tokens, span = len(request), int(value.max(initial=0)) + 1
    kept = np.flatnonzero(known[:num_tokens])
    candidates = np.flatnonzero(known[num_tokens:])
    if not len(kept) or not len(candidates):
        return out
    request, place = request[kept], place[kept]
    key = request * span + value[kept]
    pairs, floats = _of_pairs(history, key, request, place)
    wanted = request_of_candidate[candidates] * span + value[num_tokens + candidates]
    found = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    hit = pairs[found] == wanted
    out[candidates[hit]] = floats[found[hit]]
    return out


def compare_floats(
    touched_N: NDArray[np.float32],
    value_N: NDArray[np.float64],
    missing_N: NDArray[np.bool_],
    request_of_candidate: Int64,
) -> NDArray[np.float32]:
    """float32 [N, 2]: the signed log of each value less that of the request's newest touched candidate, and missing.

    ``touched_N``: how new a candidate's match is, 0 for none; of equally new ones the first counts.
    """
    num_requests = int(request_of_candidate.max(initial=-1)) + 1
    usable = np.flatnonzero((touched_N > 0) & ~missing_N)
    order = usable[np.lexsort((-touched_N[usable], request_of_candidate[usable]))]
    first = order[np.append(True, np.diff(request_of_candidate[order]) != 0)[: len(order)]]
    newest_R = np.full(num_requests, -1)
    newest_R[request_of_candidate[first]] = first
    newest_N = newest_R[request_of_candidate]
    known = (newest_N >= 0) & ~missing_N
    difference = np.where(known, value_N - value_N[newest_N], 0.0)
    signed = np.where(difference < 0, -1.0, 1.0) * log1p(np.abs(difference))
    return np.stack((signed, ~known), axis=1).astype(np.float32)


def _of_pairs(
    history: EncodedHistory, key_T: Int64, request_T: Int64, place_T: Int64
) -> tuple[Int64, NDArray[np.float32]]:
    """Distinct (request, value) keys, ascending, and the floats of each; tokens come oldest first."""
    order = np.argsort(key_T, kind="stable")
    key, request, place = key_T[order], request_T[order], place_T[order]
    newest = np.flatnonzero(np.append(key[1:] != key[:-1], True))
    count = np.diff(newest, prepend=-1)
    request, place = request[newest], place[newest]
    since = history.length[request] - 1 - place
    age = history.ages[request, place]
    parts = (log1p_of_count(count), 1.0 / (1.0 + since), 1.0 - age / _AGE_BUCKETS)
    return key[newest], np.stack(parts, axis=1).astype(np.float32)


def _values(items: Catalogue, column: str | None, rows: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """A small number for each row's value, equal for equal values, and whether there is one."""
    if column is None:
        return rows, rows > 0
    stored = items.column(column).take(rows)
    if isinstance(stored, TextColumn):
        return stored.codes.astype(np.int64), stored.codes > 0
    assert isinstance(stored, NumberColumn), "checked when features are planned"
    return np.unique(stored.values, return_inverse=True)[1].ravel().astype(np.int64), ~stored.missing

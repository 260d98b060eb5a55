"""How a candidate lies among those of its own list that the history touched, in the order of a column (place, price).

Somebody who reads down a page and has opened the third and the fourth hotel is about to open the fifth; a match of the
item alone says nothing of the fifth. A request's candidates with a known value stand in the order of the column (equal
ones by item). Some of them are touched: their item (or its author, brand) occurs in the history; the newest has number
1. Per candidate:

    1 / its number (0: untouched),  ln(1 + touched ones of the list),
    ln(1 + untouched ones before it),  share of touched ones before it, and after it,
    1 / the number of its neighbour before it, and after it,
    places to the touched ones numbered 1, 2 and 3: signed ln(1 + |places|), and whether there is none

All 0 and none where its own value is missing. A row depends on the candidates and the history of its own request alone.

Legend: N candidates, R requests, M of the N have a value, in the column's order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from depthrank.features.exact_math import log1p

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]
NUMBERED = 3  # so many newest touched candidates are told apart
_OF_LIST = 7
NUM_ALONG_FLOATS = _OF_LIST + 2 * NUMBERED


def along_floats(
    touched_N: NDArray[np.float32],
    value_N: Floats,
    missing_N: NDArray[np.bool_],
    item_rows_N: Int64,
    request_of_candidate: Int64,
) -> NDArray[np.float32]:
    """float32 [N, 13]. ``touched_N``: how new a candidate's match is, 0 for none; equally new ones share a number."""
    out = np.zeros((len(value_N), NUM_ALONG_FLOATS), np.float32)
    out[:, _OF_LIST + 1 :: 2] = 1.0
    order = np.lexsort((item_rows_N, value_N, request_of_candidate))
    order = order[~missing_N[order]]
    if len(order):
        out[order] = _in_order(touched_N[order], request_of_candidate[order])
    return out


def _in_order(touched_M: NDArray[np.float32], request_M: Int64) -> Floats:
    size_R = np.bincount(request_M)
    start_M = (np.cumsum(size_R) - size_R)[request_M]
    size_M, place_M = size_R[request_M], np.arange(len(request_M)) - start_M
    number_M = _numbers(touched_M, request_M)
    hit_M = number_M > 0
    before_M = _sum_before(hit_M, start_M)
    total_M = np.bincount(request_M, weights=hit_M)[request_M].astype(np.float64)
    share_M = np.where(hit_M, 1.0 / np.maximum(number_M, 1), 0.0)
    columns = [
        share_M,
        log1p(total_M),
        log1p((place_M - before_M).astype(np.float64)),
        before_M / np.maximum(place_M, 1),
        (total_M - before_M - hit_M) / np.maximum(size_M - 1 - place_M, 1),
        np.where(place_M > 0, np.roll(share_M, 1), 0.0),
        np.where(place_M < size_M - 1, np.roll(share_M, -1), 0.0),
    ]
    for number in range(1, NUMBERED + 1):
        columns += _places_from(number_M == number, place_M, request_M, len(size_R))
    return np.stack(columns, axis=1)


def _numbers(touched_M: NDArray[np.float32], request_M: Int64) -> Int64:
    """1 for the newest touched candidates of a request, 2 for the next newest, ...; 0 for untouched ones."""
    number_M = np.zeros(len(touched_M), np.int64)
    hit = np.flatnonzero(touched_M > 0)
    if not len(hit):
        return number_M
    hit = hit[np.lexsort((-touched_M[hit], request_M[hit]))]
    first = np.append(True, request_M[hit][1:] != request_M[hit][:-1])
    step = first | np.append(True, touched_M[hit][1:] != touched_M[hit][:-1])
    steps = np.cumsum(step)
    number_M[hit] = steps - np.maximum.accumulate(np.where(first, steps, 0)) + 1
    return number_M


def _sum_before(hit_M: NDArray[np.bool_], start_M: Int64) -> Int64:
    """How many of a request's rows before each one are hits."""
    so_far: Int64 = np.append(0, np.cumsum(hit_M, dtype=np.int64))
    return so_far[:-1] - so_far[start_M]


def _places_from(is_it_M: NDArray[np.bool_], place_M: Int64, request_M: Int64, num_requests: int) -> list[Floats]:
    """Signed log of the places from a request's marked row (its first), and whether there is none."""
    place_R = np.full(num_requests, -1, np.int64)
    marked = np.flatnonzero(is_it_M)[::-1]  # the first row is written last
    place_R[request_M[marked]] = place_M[marked]
    origin_M = place_R[request_M]
    difference_M = np.where(origin_M >= 0, place_M - origin_M, 0)
    signed_M = np.where(difference_M < 0, -1.0, 1.0) * log1p(np.abs(difference_M).astype(np.float64))
    return [signed_M, (origin_M < 0).astype(np.float64)]

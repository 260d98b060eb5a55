"""Counts which item users went on to choose after which: pairs of an item in the history and a training positive.

Only training examples are read, and only with the histories that they themselves see, so nothing of a later split is in
the counts, whatever the split.

Legend: V item codes, M neighbours, J last items, P positives, G kinds, E pairs with counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.data import Batch
from depthrank.features.window_counts import distinct
from depthrank.model.transitions import BEFORE_LAGS, FIRST_KNOWN, NUM_KINDS, SOON_LAGS, Transitions, recent_codes
from depthrank.training.batch_inputs import ItemColumns, Sequences

Int64 = NDArray[np.int64]
MOST_WAITING = 1 << 24  # keys that are held before they are merged: 128 MB


class _Pairs:
    """Counts of (from, to) pairs of one kind, as sorted keys ``from * V + to``."""

    def __init__(self) -> None:
        self._waiting: list[Int64] = []
        self._num_waiting = 0
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, keys: Int64) -> None:
        self._waiting.append(keys)
        self._num_waiting += len(keys)
        if self._num_waiting > MOST_WAITING:
            self.merged()

    def merged(self) -> tuple[Int64, Int64]:
        """Keys, ascending, and the count of each."""
        keys, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *self._waiting]), return_counts=True)
        both, place = np.unique(np.concatenate((self._keys, keys)), return_inverse=True)
        total = np.bincount(place, weights=np.concatenate((self._counts, counts)), minlength=len(both))
        self._keys, self._counts = both, total.astype(np.int64)
        self._waiting, self._num_waiting = [], 0
        return self._keys, self._counts


@torch.no_grad()
def count_transitions_(transitions: Transitions, items: ItemColumns, batches: Iterable[Batch]) -> None:
    """Fill the counts from training batches; every positive of any task is a choice."""
    num_items = transitions.out_VG.shape[0]
    code_V = transitions.codes(items.ids_VI)
    pairs = [_Pairs() for _ in range(NUM_KINDS - 1)]  # steps at the lags of ``before`` are counted as they were made
    lags = ((1, 1), SOON_LAGS, BEFORE_LAGS)
    backward = _Pairs()
    for batch in batches:
        sequences = Sequences.of(batch)
        positive_N = np.nan_to_num(batch.label).max(axis=1, initial=0.0) > 0
        request_P = batch.request_of_candidate[positive_N]
        to_P = code_V.numpy()[batch.item_row[positive_N]]
        recent_PJ = recent_codes(
            code_V,
            torch.from_numpy(sequences.rows_SL.astype(np.int64)),
            torch.from_numpy(sequences.length_R[request_P]),
            torch.from_numpy(sequences.sequence_R[request_P]),
        ).numpy()
        for kind, (first, last) in zip((*pairs, backward), lags, strict=True):
            from_PJ, to_PJ = np.broadcast_arrays(recent_PJ[:, first - 1 : last], to_P[:, None])
            known = (from_PJ >= FIRST_KNOWN) & (to_PJ >= FIRST_KNOWN)
            start, end = (to_PJ, from_PJ) if kind is backward else (from_PJ, to_PJ)
            kind.add(start[known] * num_items + end[known])
    _fill_(transitions, [p.merged() for p in (*pairs, backward)])


def _fill_(transitions: Transitions, counted: list[tuple[Int64, Int64]]) -> None:
    num_items, neighbours = transitions.neighbour_VM.shape
    out_VG, into_VG = np.zeros((num_items, NUM_KINDS)), np.zeros((num_items, NUM_KINDS))
    for kind, (keys, counts) in enumerate(counted):
        out_VG[:, kind] = np.bincount(keys // num_items, weights=counts, minlength=num_items)
        into_VG[:, kind] = np.bincount(keys % num_items, weights=counts, minlength=num_items)
    share_VG = into_VG / np.maximum(into_VG.sum(axis=0), 1.0)
    keys_E = distinct(np.concatenate([keys for keys, _ in counted]))
    count_EG = np.zeros((len(keys_E), NUM_KINDS), np.float32)
    for kind, (keys, counts) in enumerate(counted):
        count_EG[np.searchsorted(keys_E, keys), kind] = counts
    from_E, to_E = keys_E // num_items, keys_E % num_items
    expected_EG = out_VG[from_E] * share_VG[to_E]
    telling_E = (count_EG * np.log1p(count_EG / np.maximum(expected_EG, 1e-6))).sum(axis=1)
    order_E = np.lexsort((-telling_E, from_E))
    first_V = np.searchsorted(from_E[order_E], np.arange(num_items))
    place_E = np.arange(len(order_E)) - first_V[from_E[order_E]]
    kept_E, slot_E = order_E[place_E < neighbours], place_E[place_E < neighbours]
    rows = torch.from_numpy(from_E[kept_E]), torch.from_numpy(slot_E)
    transitions.neighbour_VM.zero_()[rows] = torch.from_numpy(to_E[kept_E].astype(np.int32))
    transitions.count_VMG.zero_()[rows] = torch.from_numpy(count_EG[kept_E])
    transitions.out_VG.copy_(torch.from_numpy(out_VG))
    transitions.share_VG.copy_(torch.from_numpy(share_VG))

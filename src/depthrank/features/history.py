"""Histories from the event log -> padded token matrices. One function for a batch of thousands and for one request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from depthrank.events import HistoryBatch
from depthrank.features.code_map import HistoryCodes
from depthrank.features.exact_math import log2_bucket
from depthrank.features.layout import EncodedHistory
from depthrank.features.window_anchor import window_lengths


def encode_history(
    batch: HistoryBatch, codes: HistoryCodes, as_of_ms: NDArray[np.int64], max_length: int
) -> EncodedHistory:
    """The last tokens of n histories, at most ``max_length``, from an anchor on (``window_anchor``).

    ``as_of_ms`` int64 [n].

    Neighbouring events of one item at one time are one token with a bit for each action; events of actions that are no
    history actions are left out. See ``EncodedHistory`` for the arrays.
    """
    bits = codes.action_bits(batch.action_code)
    history = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    item, time_ms = batch.item_code, batch.time_ms
    kept = bits != 0
    if not kept.all():
        bits, history, item, time_ms = bits[kept], history[kept], item[kept], time_ms[kept]
    begins = np.ones(len(item), np.bool_)
    begins[1:] = (item[1:] != item[:-1]) | (time_ms[1:] != time_ms[:-1]) | (history[1:] != history[:-1])
    token = np.flatnonzero(begins)
    actions = np.bitwise_or.reduceat(bits, token) if len(token) else bits
    history, item, time_ms = history[token], item[token], time_ms[token]

    tokens = np.bincount(history, minlength=len(batch))
    length = window_lengths(history, time_ms, tokens, max_length)
    place = np.arange(len(token)) - (np.cumsum(tokens) - length)[history]  # below 0: older than the window
    inside = place >= 0
    gap_ms = np.zeros(len(token), np.int64)
    gap_ms[1:] = time_ms[1:] - time_ms[:-1]
    gap_ms[place == 0] = 0
    history, place, item = history[inside], place[inside], item[inside]

    def matrix(values: NDArray[np.int32]) -> NDArray[np.int32]:
        out = np.zeros((len(batch), max_length), np.int32)
        out[history, place] = values
        return out

    return EncodedHistory(
        rows=matrix(codes.rows(item)),
        actions=matrix(actions[inside]),
        gaps=matrix(log2_bucket(gap_ms[inside])),
        ages=matrix(log2_bucket(as_of_ms[history] - time_ms[inside])),
        length=length.astype(np.int32),
    )

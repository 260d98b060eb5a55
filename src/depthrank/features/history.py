"""Histories from the event log -> padded token matrices. One function for a batch of thousands and for one request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthrank.events import HistoryBatch
from depthrank.features.code_map import HistoryCodes
from depthrank.features.exact_math import log2_bucket
from depthrank.features.layout import EncodedHistory
from depthrank.features.window_anchor import window_lengths


@dataclass(frozen=True)
class Tokens:
    """T tokens of n histories, flat, oldest first: neighbouring events of one item at one time are one.

    history int64 [T], ascending; item_code int32 [T]; actions int32 [T]: a bit for each action; time_ms int64 [T];
    gap_ms int64 [T]: time since the token before, 0 for the first of a history; event int64 [T]: the place of its first
    event among the events of history actions.
    """

    history: NDArray[np.int64]
    item_code: NDArray[np.int32]
    actions: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    gap_ms: NDArray[np.int64]
    event: NDArray[np.int64]


def tokens_of(batch: HistoryBatch, codes: HistoryCodes) -> Tokens:
    """The tokens of n histories; events of actions that are no history actions are left out."""
    bits = codes.action_bits(batch.action_code)
    several = len(batch) > 1
    history = np.zeros(len(bits), np.int64)
    if several:
        history = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    item, time_ms = batch.item_code, batch.time_ms
    kept = bits != 0
    if not kept.all():
        bits, history, item, time_ms = bits[kept], history[kept], item[kept], time_ms[kept]
    begins = np.ones(len(item), np.bool_)
    begins[1:] = (item[1:] != item[:-1]) | (time_ms[1:] != time_ms[:-1])
    if several:
        begins[1:] |= history[1:] != history[:-1]
    token = begins.nonzero()[0]
    if len(token) < len(bits):
        bits = np.bitwise_or.reduceat(bits, token)
        history, item, time_ms = history.take(token), item.take(token), time_ms.take(token)
    gap_ms = np.zeros(len(token), np.int64)
    np.subtract(time_ms[1:], time_ms[:-1], out=gap_ms[1:])
    if several:
        gap_ms[1:][history[1:] != history[:-1]] = 0
    return Tokens(history, item, bits, time_ms, gap_ms, token)


def encode_history(
    batch: HistoryBatch, codes: HistoryCodes, as_of_ms: NDArray[np.int64], max_length: int
) -> EncodedHistory:
    """The last tokens of n histories, at most ``max_length``, from an anchor on (``window_anchor``).

    ``as_of_ms`` int64 [n]. See ``EncodedHistory`` for the arrays.
    """
    tokens = tokens_of(batch, codes)
    history, item, actions, time_ms, gap_ms = (
        tokens.history,
        tokens.item_code,
        tokens.actions,
        tokens.time_ms,
        tokens.gap_ms,
    )
    num_tokens = np.bincount(history, minlength=len(batch))
    length = window_lengths(history, time_ms, num_tokens, max_length)
    place = np.arange(len(history)) - (num_tokens.cumsum() - length).take(history)  # < 0: before the window
    gap_ms[place == 0] = 0
    if not np.array_equal(length, num_tokens):
        inside = place >= 0
        history, item, actions = history[inside], item[inside], actions[inside]
        time_ms, gap_ms, place = time_ms[inside], gap_ms[inside], place[inside]
    at = history * max_length + place
    since_ms = np.concatenate((gap_ms, as_of_ms.take(history) - time_ms))
    out = np.zeros((4, len(batch) * max_length), np.int32)
    out[0, at], out[1, at] = codes.rows(item), actions
    out[2:, at] = log2_bucket(since_ms).reshape(2, -1)
    rows, actions, gaps, ages = out.reshape(4, len(batch), max_length)
    return EncodedHistory(rows, actions, gaps, ages, length.astype(np.int32))

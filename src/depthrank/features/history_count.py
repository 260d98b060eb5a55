"""What a request's history holds, by action: how much, which share, and how lately.

An attention layer averages what it reads, so a model with a history still has to be told how long it is and how much of
it are purchases; trees and linear terms cannot read it at all. Counters tell it over fixed windows of complete buckets;
this tells it over the last tokens, up to the event before the request. Per action of the feature:

    ln(1 + tokens),  tokens / all tokens,  1 / (1 + tokens since the newest),  1 - its age bucket / 32

all 0 where there is none, and at the end ln(1 + all tokens). A request's result depends on its own history alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depthrank.features.exact_math import log1p_of_count
from depthrank.features.layout import EncodedHistory

FLOATS_AN_ACTION = 4
_AGE_BUCKETS = 32.0


def num_count_floats(num_actions: int) -> int:
    """Float columns of a feature that counts so many actions."""
    return FLOATS_AN_ACTION * num_actions + 1


def count_floats(history: EncodedHistory, action_bits: Sequence[int]) -> NDArray[np.float32]:
    """float32 [R, 4 A + 1]; ``action_bits``: the bit mask of each of A actions."""
    length = history.length.astype(np.int64)
    out = np.zeros((len(length), num_count_floats(len(action_bits))), np.float32)
    out[:, -1] = log1p_of_count(length)
    if not history.rows.shape[1]:
        return out
    inside = np.arange(history.rows.shape[1]) < length[:, None]
    for number, bits in enumerate(action_bits):
        took = inside & ((history.actions & bits) != 0)
        count = took.sum(axis=1)
        newest = np.where(count > 0, took.shape[1] - 1 - took[:, ::-1].argmax(axis=1), 0)
        age = np.take_along_axis(history.ages, newest[:, None], axis=1)[:, 0]
        parts = (
            log1p_of_count(count),
            count / np.maximum(length, 1),
            1.0 / np.maximum(length - newest, 1),
            1.0 - age / _AGE_BUCKETS,
        )
        columns = slice(FLOATS_AN_ACTION * number, FLOATS_AN_ACTION * (number + 1))
        out[:, columns] = np.where(count[:, None] > 0, np.stack(parts, axis=1), 0.0)
    return out

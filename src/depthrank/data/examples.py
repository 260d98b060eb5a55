"""Examples: (user, time, context, candidates, labels), without histories; those are joined from the log.

Shape letters: R requests, N candidates (request r holds rows offsets[r]:offsets[r+1]), K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.data.shown import Column, Shown, gather_ranges
from depthrank.data.split_times import SPLIT_CODE, TRAIN

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Requests in time order, R of them, with N candidates.

    user: R ids; user_row: int64 [R] in the users catalogue (0: unknown or none); time_ms: int64 [R]; context: R values
    a column; offsets: int64 [R+1]; item_row: int64 [N] in the items catalogue; candidate: N values a column; label:
    float32 [N, K], NaN = no label; position: int32 [N], from 0, -1 = unknown; split: int8 [R], 0 train, 1 validation,
    2 test. ``sampled``: the candidates are positives only, and a loader adds sampled negatives.
    """

    user: list[str]
    user_row: Int64
    time_ms: Int64
    context: dict[str, list[Any]]
    offsets: Int64
    item_row: Int64
    candidate: dict[str, Column]
    label: npt.NDArray[np.float32]
    position: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    sampled: bool = False

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_candidates(self) -> int:
        """N."""
        return len(self.item_row)

    def of_split(self, split: str) -> Int64:
        """Request rows of "train", "validation" or "test", ascending."""
        return np.flatnonzero(self.split == SPLIT_CODE[split]).astype(np.int64)

    def candidates_of(self, requests: Int64) -> Int64:
        """Candidate rows of these requests, one request after the other."""
        return gather_ranges(self.offsets[requests], self.offsets[requests + 1] - self.offsets[requests])

    def take(self, requests: Int64) -> Examples:
        """The same columns, those requests only."""
        rows = self.candidates_of(requests)
        lengths = self.offsets[requests + 1] - self.offsets[requests]
        return Examples(
            user=[self.user[r] for r in requests.tolist()],
            user_row=self.user_row[requests],
            time_ms=self.time_ms[requests],
            context={c: [values[r] for r in requests.tolist()] for c, values in self.context.items()},
            offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
            item_row=self.item_row[rows],
            candidate={c: values[rows] for c, values in self.candidate.items()},
            label=self.label[rows],
            position=self.position[rows],
            split=self.split[requests],
            sampled=self.sampled,
        )


def concatenate(parts: Sequence[Examples]) -> Examples:
    """Several examples of the same spec in one, in the order of time: files and served traffic, for instance."""
    assert parts and len({p.sampled for p in parts}) == 1, "sampled and shown examples do not mix"
    shift = np.cumsum([0, *(p.num_candidates for p in parts)])
    offsets = [p.offsets[1:] + s for p, s in zip(parts, shift)]
    joined = Examples(
        user=[u for p in parts for u in p.user],
        user_row=np.concatenate([p.user_row for p in parts]),
        time_ms=np.concatenate([p.time_ms for p in parts]),
        context={c: [v for p in parts for v in p.context[c]] for c in parts[0].context},
        offsets=np.concatenate([[0], *offsets]).astype(np.int64),
        item_row=np.concatenate([p.item_row for p in parts]),
        candidate={c: _joined([p.candidate[c] for p in parts]) for c in parts[0].candidate},
        label=np.concatenate([p.label for p in parts]),
        position=np.concatenate([p.position for p in parts]),
        split=np.concatenate([p.split for p in parts]),
        sampled=parts[0].sampled,
    )
    return joined.take(np.argsort(joined.time_ms, kind="stable").astype(np.int64))


def _joined(columns: list[Column]) -> Column:
    """Columns of several parts; numbers stay numbers, anything else becomes objects."""
    if any(c.dtype == object for c in columns):
        columns = [c.astype(object) for c in columns]
    return np.concatenate(columns)


def train_item_counts(examples: Examples, num_items: int) -> Int64:
    """How often each item row is a positive of any task in the training split, int64 [V] (row 0: unknown items).

    The popularity that sampling, and the long tail in evaluation, are defined by.
    """
    rows = examples.candidates_of(examples.of_split("train"))
    positive = np.nan_to_num(examples.label[rows]).max(axis=1, initial=0.0) > 0
    return np.bincount(examples.item_row[rows[positive]], minlength=num_items).astype(np.int64)


def is_train(examples: Examples) -> npt.NDArray[np.bool_]:
    """Whether each request is in the training split, bool [R]."""
    return np.asarray(examples.split == TRAIN, dtype=np.bool_)


def shown_to_examples(shown: Shown, user_row: Int64, item_row: Int64, split: npt.NDArray[np.int8]) -> Examples:
    """Displayed candidates as examples, once ids are rows and the split is known."""
    return Examples(
        user=shown.user,
        user_row=user_row,
        time_ms=shown.time_ms,
        context=shown.context,
        offsets=shown.offsets,
        item_row=item_row,
        candidate=shown.candidate,
        label=shown.label,
        position=shown.position,
        split=split,
    )

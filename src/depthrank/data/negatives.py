"""Sampled negatives for positives-only data.

Item j is drawn with q_j proportional to popularity_j^power (or uniformly), popularity counted in the training split.
With ``exclude_seen`` a user's training positives are rejected, so the probability given the user is q_j / (1 - sum of q
over what the user saw); its log is what the -log q correction takes from a logit. Draws are independent per request:
one costs about 0.2 us, so sharing them over a batch would save little beside encoding and scoring, and lose variety.
Source of the correction: Yi et al., Sampling-Bias-Corrected Neural Modeling, RecSys 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthrank.data.examples import Examples, train_item_counts
from depthrank.features.window_counts import distinct
from depthrank.schema.dataset import Negatives

Int64 = npt.NDArray[np.int64]
_ROUNDS = 16
_MAX_SEEN_MASS = 0.999


@dataclass(frozen=True)
class NegativeDraw:
    """Drawn items of n requests, row by row: ``request`` int64 [M] (index of the request), ``item_row`` int64 [M]."""

    request: Int64
    item_row: Int64


class NegativeSampler:
    """Draws items with a known probability, never row 0 and never what the user saw in training."""

    def __init__(self, settings: Negatives, examples: Examples, num_items: int) -> None:
        self._settings = settings
        counts = train_item_counts(examples, num_items)
        weight = np.zeros(num_items)
        weight[counts > 0] = counts[counts > 0] ** settings.power
        if settings.sampler == "uniform":
            weight[:] = 1.0
        weight[0] = 0.0
        assert weight.any(), "no training positive: load_examples refuses such data"
        self._q = weight / weight.sum()
        self._cumulative = np.cumsum(self._q)
        self._num_items = num_items
        self._code_of_user: dict[str, int] = {}
        self._seen = np.zeros(0, dtype=np.int64)
        self._seen_mass: npt.NDArray[np.float64] = np.zeros(1)
        if settings.exclude_seen:
            self._index_seen(examples)

    def _index_seen(self, examples: Examples) -> None:
        """Sorted keys user code * V + item row of all training positives, and the probability mass of each user."""
        train = examples.of_split("train")
        users = [examples.user[r] for r in train.tolist()]
        self._code_of_user = {u: i for i, u in enumerate(dict.fromkeys(users), start=1)}
        codes = np.array([self._code_of_user[u] for u in users], dtype=np.int64)
        lengths = examples.offsets[train + 1] - examples.offsets[train]
        self._seen = distinct(
            np.repeat(codes, lengths) * self._num_items + examples.item_row[examples.candidates_of(train)]
        )
        mass = self._q[self._seen % self._num_items]
        totals = np.bincount(self._seen // self._num_items, weights=mass, minlength=len(self._code_of_user) + 1)
        self._seen_mass = totals.astype(np.float64)

    def codes_of(self, users: list[str]) -> Int64:
        """The sampler's own code of each user, int64; 0 for one without training positives."""
        return np.array([self._code_of_user.get(u, 0) for u in users], dtype=np.int64)

    def draw(self, user_code: Int64, positive_row: Int64, rng: np.random.Generator) -> NegativeDraw:
        """``per_positive`` items for each of n requests, with repetition, never the request's positive.

        A request whose draws were all seen after 16 rounds gets fewer.
        """
        request = np.repeat(np.arange(len(user_code), dtype=np.int64), self._settings.per_positive)
        item = np.zeros(len(request), dtype=np.int64)
        open_rows = np.flatnonzero(self._seen_mass[user_code][request] < _MAX_SEEN_MASS)
        for _ in range(_ROUNDS):
            if not len(open_rows):
                break
            drawn = np.searchsorted(self._cumulative, rng.random(len(open_rows)), side="right")
            drawn = np.minimum(drawn, self._num_items - 1)
            asked = request[open_rows]
            fits = (drawn != positive_row[asked]) & (self._q[drawn] > 0) & ~self._was_seen(user_code[asked], drawn)
            item[open_rows[fits]] = drawn[fits]
            open_rows = open_rows[~fits]
        kept = item > 0
        return NegativeDraw(request[kept], item[kept])

    def log_q(self, user_code: Int64, item_row: Int64) -> npt.NDArray[np.float32]:
        """Log probability of drawing each item for each user among unseen items, float32 [n]; -inf: never drawn."""
        with np.errstate(divide="ignore"):
            log_q = np.log(self._q[item_row]) - np.log(np.maximum(1.0 - self._seen_mass[user_code], 1 - _MAX_SEEN_MASS))
        return np.asarray(log_q, dtype=np.float32)

    def _was_seen(self, user_code: Int64, item_row: Int64) -> npt.NDArray[np.bool_]:
        if not len(self._seen):
            return np.zeros(len(item_row), dtype=np.bool_)
        key = user_code * self._num_items + item_row
        at = np.minimum(np.searchsorted(self._seen, key), len(self._seen) - 1)
        return np.asarray(self._seen[at] == key, dtype=np.bool_)

"""Survivors: which candidates go on to the next level. O(N), stable, best first.

A plan's width caps them. Below the cap, a candidate is dropped when even its optimistic value at full depth would not
reach the pessimistic value of the n-th: then no deeper level can bring it into the top n. Bounds are the value at this
level plus a quantile of the residual (full depth minus this level, in log-odds of the value as a share of the most it
could be), learned on held-out requests by bucket of this level's value, and measured from the residual that the
request's best candidates share: what moves all candidates of a request alike moves no order.

Settled is a candidate whose pessimistic value keeps its place in the top n. Its membership is certain, its place among
the others is not, and an answer is ordered by depth before value: a settled candidate that stayed behind would fall
below every other survivor. So it goes on too (there are at most n of them), unless the whole top n is settled, member
by member and place by place: then nothing is left to decide, and the request stops here.

Legend: N candidates, B buckets, Q confidences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.plain import fields_of, finite_number, finite_numbers

CONFIDENCES = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
SMALLEST_SHARE = 1e-12
MOST_BUCKETS = 64

Floats = NDArray[np.float64]


def keep_best(value_N: NDArray[np.float64], width: int) -> NDArray[np.int64]:
    """Indices of the ``width`` highest values, highest first; ties go to the earlier one. O(N + width log width)."""
    n = value_N.shape[0]
    width = min(width, n)
    if width <= 0:
        return np.zeros(0, dtype=np.int64)
    if width < n:
        threshold = np.partition(value_N, n - width)[n - width]
        above = np.flatnonzero(value_N > threshold)
        ties = np.flatnonzero(value_N == threshold)[: width - above.size]
        kept = np.concatenate((above, ties))
    else:
        kept = np.arange(n)
    order = np.lexsort((kept, -value_N[kept]))
    return kept[order].astype(np.int64)


def log_odds(value_N: Floats, most: float, factor_N: Floats | None = None) -> Floats:
    """Log-odds of values as a share of the most they could be (``most`` times the candidate's factor)."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share_N = value_N / most if factor_N is None else value_N / (most * factor_N)
    share_N = np.clip(np.nan_to_num(share_N, nan=0.0, posinf=1.0, neginf=0.0), SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    return np.asarray(np.log(share_N) - np.log1p(-share_N), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class LevelSpread:
    """Residuals of one level in log-odds: ``low_QB`` and ``high_QB`` by confidence and bucket of this level's log-odds.

    ``edges`` [B - 1], ascending, part the buckets.
    """

    edges: Floats
    low_QB: Floats
    high_QB: Floats

    def bounds(self, odds_N: Floats, confidence: float) -> tuple[Floats, Floats]:
        """Pessimistic and optimistic log-odds at full depth [N]; between confidences by interpolation."""
        bucket_N = np.searchsorted(self.edges, odds_N)
        low_B, high_B = self._at(self.low_QB, confidence), self._at(self.high_QB, confidence)
        return odds_N + low_B[bucket_N], odds_N + high_B[bucket_N]

    def _at(self, values_QB: Floats, confidence: float) -> Floats:
        place = float(np.interp(confidence, CONFIDENCES, np.arange(len(CONFIDENCES))))
        below = min(int(place), len(CONFIDENCES) - 2)
        share = place - below
        return np.asarray(values_QB[below] * (1 - share) + values_QB[below + 1] * share)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"edges": self.edges.tolist(), "low": self.low_QB.tolist(), "high": self.high_QB.tolist()}

    @classmethod
    def from_plain(cls, plain: object) -> LevelSpread:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        f = fields_of(plain, ("edges", "low", "high"), "residual spread")
        edges = finite_numbers(f["edges"], "edges of a residual spread")
        if edges.size >= MOST_BUCKETS or (np.diff(edges) <= 0).any():
            raise ArtifactError(
                f"the adaptive part is damaged: edges of a residual spread must ascend, at most {MOST_BUCKETS - 1}"
            )
        low_QB, high_QB = (_table(f[name], edges.size + 1) for name in ("low", "high"))
        if (low_QB > high_QB).any():
            raise ArtifactError("the adaptive part is damaged: a pessimistic residual is above the optimistic one")
        return cls(edges, low_QB, high_QB)


def _table(value: object, num_buckets: int) -> Floats:
    if not isinstance(value, list) or len(value) != len(CONFIDENCES):
        raise ArtifactError(f"the adaptive part is damaged: a residual spread needs {len(CONFIDENCES)} rows")
    return np.stack([finite_numbers(row, "a residual spread", num_buckets) for row in value])


@dataclass(frozen=True)
class Survivors:
    """Who goes on: indices int64, best first; empty where nothing is left to decide, or no width is given.

    ``num_dropped``: below the cap's edge or out of reach. ``num_settled``: certain members of the top n.
    """

    kept: NDArray[np.int64]
    num_dropped: int
    num_settled: int
    reason: str


def survivors(
    value_N: NDArray[np.float64],
    top: int,
    cap: int,
    spread: LevelSpread | None,
    confidence: float | None,
    *,
    most: float = 1.0,
    factor_N: NDArray[np.float64] | None = None,
) -> Survivors:
    """The candidates that go on from a level whose values [N] are given; at most ``cap``, at least the top n in reach.

    ``spread`` or ``confidence`` None: the cap alone decides. A value that is no number goes on last.
    """
    value_N = np.where(np.isfinite(value_N), value_N, -np.inf)
    n = value_N.size
    kept = keep_best(value_N, cap)
    if spread is None or confidence is None or not kept.size or top <= 0:
        return Survivors(kept, n - kept.size, 0, f"the plan's width keeps {kept.size} of {n}")
    odds = log_odds(value_N[kept], most, None if factor_N is None else factor_N[kept])
    low, high = spread.bounds(odds, confidence)
    if factor_N is not None:
        low, high = factor_N[kept] / (1 + np.exp(-low)), factor_N[kept] / (1 + np.exp(-high))
    n_th = _largest(low, top)
    reach = high >= n_th
    settled = int((low > _largest(high, top + 1)).sum()) if kept.size > top else kept.size
    if kept.size == n or kept.size > top:  # else the cap cut through the top n itself
        contenders = np.flatnonzero(reach)
        if contenders.size <= top and bool((low[contenders][:-1] >= high[contenders][1:]).all()):
            return Survivors(
                kept[:0], n, contenders.size, f"the top {contenders.size} are settled: nothing goes deeper"
            )
    chosen = kept[reach]
    what = f"{n - kept.size} of {n} beyond the plan's width, {kept.size - chosen.size} out of reach of the top {top}"
    return Survivors(chosen, n - chosen.size, settled, what)


def _largest(values: Floats, k: int) -> float:
    """The k-th largest; minus infinity where there are fewer."""
    return float(np.partition(values, values.size - k)[values.size - k]) if k <= values.size else -np.inf


def fit_spread(odds_n: Floats, residual_n: Floats, *, num_buckets: int = 8) -> LevelSpread:
    """Residual quantiles by bucket of log-odds; buckets hold equal numbers of the observations given [n].

    The caller chooses which candidates to learn from: those near the top count, the tail only blurs them.
    """
    edges = np.unique(np.quantile(odds_n, np.linspace(0, 1, num_buckets + 1)[1:-1]))
    bucket_n = np.searchsorted(edges, odds_n)
    both = [residual_n[bucket_n == b] if (bucket_n == b).any() else residual_n for b in range(edges.size + 1)]
    low_QB = np.array([[np.quantile(r, 1 - c) for r in both] for c in CONFIDENCES])
    high_QB = np.array([[np.quantile(r, c) for r in both] for c in CONFIDENCES])
    return LevelSpread(edges, low_QB, high_QB)


def check_confidence(value: object) -> float | None:
    """A confidence within the learned ones, or None; raises ArtifactError."""
    return None if value is None else finite_number(value, "confidence", CONFIDENCES[0], CONFIDENCES[-1])

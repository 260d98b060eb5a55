"""One budget in bytes, spent where it earns: which ids get rows of their own, and which share.

An id that is looked up ``c`` times has c examples to learn from, so rows of its own go to the most frequent ids of all
features together, whatever their feature. The others hash into their side's pool, two salted rows an id. A pool of P
rows under n ids has a load of 2 n / P ids a row; what a lookup loses by sharing is taken as log(1 + load). The share of
rows that the pools get is the one for which the sum of that over all lookups is least.

The format is the widest one in which at least ``EXACT_ENOUGH`` of all lookups read rows of their own, else the
narrowest: a row of 4 bits loses far less than two ids in one row of 32.

Source: unified embeddings, arXiv 2305.12102; the greedy order and the load model are ours, measured in
benchmarks/quality/tables_memory.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import SpecError
from depthrank.tables.row_format import ROW_FORMATS, RowFormat, row_bytes
from depthrank.tables.row_map import SALTS, TableSlot

FIRST_KNOWN = 2  # id 0 is padding, id 1 the unknown value: both have rows in any plan
EXACT_ENOUGH = 0.99
POOL_SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)

Sharing = Literal["unified", "separate"]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class SlotTraffic:
    """A feature's slot, and how often each of its ids is looked up in training, int64 [num_rows].

    by_frequency: ids fall in frequency, as those of a vocabulary do, so that the first ones can have rows of their own.
    """

    side: str
    slot: TableSlot
    lookups_V: Int64
    by_frequency: bool = True


@dataclass(frozen=True)
class FeatureShare:
    """What the plan gives a feature, and what that is expected to do."""

    feature: str
    side: str
    num_ids: int
    own_rows: int
    pool_rows: int
    bytes: int
    lookups: int
    exact_share: float
    """Lookups that read rows of their own."""
    ids_per_pool_row: float
    same_share: float
    """Ids without rows of their own of which another id has both pool rows, so that nothing tells the two apart."""


@dataclass(frozen=True)
class TablePlan:
    """Slots by side, all in one row format. ``bytes``: of all rows."""

    width: int
    row_format: RowFormat
    slots: Mapping[str, tuple[TableSlot, ...]]
    features: tuple[FeatureShare, ...]
    bytes: int
    bytes_unplanned: int
    budget_bytes: int | None = None

    @property
    def exact_share(self) -> float:
        """Lookups of all features that read rows of their own."""
        lookups = sum(f.lookups for f in self.features)
        return sum(f.exact_share * f.lookups for f in self.features) / lookups if lookups else 1.0


def plan_tables(
    traffic: Sequence[SlotTraffic],
    *,
    width: int,
    budget_bytes: int | None,
    row_format: RowFormat | Literal["auto"] = "auto",
    sharing: Sharing = "unified",
) -> TablePlan:
    """The rows of every feature under one budget (None: a row an id). Slots keep the order of ``traffic`` in each side.

    Raises SpecError where the budget has no room for the two rows (padding, unknown) that every feature needs, and two
    rows to hash into for each side that has to.
    """
    if budget_bytes is None:
        form = "fp32" if row_format == "auto" else row_format
        return _described(traffic, [t.slot.num_rows for t in traffic], {}, sharing, width, form, None)
    forms = _usable(width) if row_format == "auto" else (row_format,)
    found = None
    for form in forms:
        found = _fitted(traffic, budget_bytes, width, form, sharing, last=form == forms[-1])
        if found is not None and found.exact_share >= EXACT_ENOUGH:
            return found
    assert found is not None, "the last format fits or raises"
    return found


def _usable(width: int) -> tuple[RowFormat, ...]:
    """The formats that rows of this width may have, the widest first; no bf16: int8 is as exact and smaller."""
    return tuple(form for form in ROW_FORMATS if form != "bf16" and not (form == "int4" and width % 2))


def _fitted(
    traffic: Sequence[SlotTraffic], budget_bytes: int, width: int, form: RowFormat, sharing: Sharing, last: bool
) -> TablePlan | None:
    """The best plan in one format; None where not even the smallest fits, an error if it is the last format."""
    num_rows = budget_bytes // row_bytes(form, width)
    if sum(t.slot.num_rows for t in traffic) <= num_rows:
        return _described(traffic, [t.slot.num_rows for t in traffic], {}, sharing, width, form, budget_bytes)
    sides = {t.side for t in traffic}
    least = sum(min(FIRST_KNOWN, t.slot.num_rows) for t in traffic) + SALTS * len(sides)
    if num_rows < least:
        if not last:
            return None
        raise SpecError(
            f"tables.budget of {budget_bytes:,} bytes has no room for the rows that every feature needs: "
            f"{len(traffic)} features of width {width} take at least {least * row_bytes(form, width):,} bytes in {form}"
        )
    best: tuple[float, list[int], dict[str, int]] | None = None
    for share in POOL_SHARES:
        pool_rows = max(SALTS * len(sides), int(share * (num_rows - least)))
        own, pools = _split(traffic, num_rows - pool_rows, pool_rows)
        loss = _expected_loss(traffic, own, pools)
        if best is None or loss < best[0]:
            best = loss, own, pools
    assert best is not None
    return _described(traffic, best[1], best[2], sharing, width, form, budget_bytes)


def _split(traffic: Sequence[SlotTraffic], own_rows: int, pool_rows: int) -> tuple[list[int], dict[str, int]]:
    """Own rows of every feature, and the rows of every side's pool by the ids that hash into it."""
    own = [min(FIRST_KNOWN, t.slot.num_rows) for t in traffic]
    left = own_rows - sum(own)
    counts = [t.lookups_V[FIRST_KNOWN:] if t.by_frequency else t.lookups_V[:0] for t in traffic]
    joined = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    feature = np.repeat(np.arange(len(traffic)), [len(c) for c in counts])
    chosen = np.argsort(-joined, kind="stable")[: max(left, 0)]
    taken = np.bincount(feature[chosen], minlength=len(traffic))
    own = [rows + int(more) for rows, more in zip(own, taken, strict=True)]
    left -= int(taken.sum())
    for i in sorted(range(len(traffic)), key=lambda i: traffic[i].slot.num_rows):
        missing = traffic[i].slot.num_rows - own[i]
        if (
            not traffic[i].by_frequency and missing <= left
        ):  # all of it or nothing: none of its ids is known to be frequent
            own[i], left = own[i] + missing, left - missing
    hashed = {side: 0 for side in sorted({t.side for t in traffic})}
    for t, rows in zip(traffic, own, strict=True):
        hashed[t.side] += t.slot.num_rows - rows
    total, spare = sum(hashed.values()), pool_rows - SALTS * sum(n > 0 for n in hashed.values())
    pools = {side: SALTS + int(spare * n / total) if n else 0 for side, n in hashed.items()} if total else {}
    return own, pools


def _expected_loss(traffic: Sequence[SlotTraffic], own: Sequence[int], pools: Mapping[str, int]) -> float:
    """Lookups that share, each by how crowded its pool is."""
    ids, lookups = dict.fromkeys(pools, 0), dict.fromkeys(pools, 0)
    for t, rows in zip(traffic, own, strict=True):
        if rows < t.slot.num_rows:
            ids[t.side] += t.slot.num_rows - rows
            lookups[t.side] += int(t.lookups_V[rows:].sum())
    loads = {side: SALTS * ids[side] / rows for side, rows in pools.items() if rows}
    return sum(lookups[side] * math.log1p(load) for side, load in loads.items())


def _described(
    traffic: Sequence[SlotTraffic],
    own: Sequence[int],
    pools: Mapping[str, int],
    sharing: Sharing,
    width: int,
    form: RowFormat,
    budget_bytes: int | None,
) -> TablePlan:
    """The plan with its slots and what is expected of it."""
    size = row_bytes(form, width)
    parts = _pool_parts(traffic, own, pools, sharing)
    slots: dict[str, list[TableSlot]] = {}
    shares = []
    for t, rows, part in zip(traffic, own, parts, strict=True):
        is_whole = rows == t.slot.num_rows
        slots.setdefault(t.side, []).append(
            replace(t.slot, own_rows=None if is_whole else rows, pool=(0, 0) if is_whole else part)
        )
        in_pool = sum(
            o.slot.num_rows - r for o, r, p in zip(traffic, own, parts, strict=True) if p == part and o.side == t.side
        )
        shares.append(_share(t, rows, part[1], in_pool, size))
    pool_rows = sum(pools.values())
    total = (sum(own) + pool_rows) * size
    plain = sum(t.slot.num_rows for t in traffic) * row_bytes("fp32", width)
    return TablePlan(width, form, {s: tuple(v) for s, v in slots.items()}, tuple(shares), total, plain, budget_bytes)


def _pool_parts(
    traffic: Sequence[SlotTraffic], own: Sequence[int], pools: Mapping[str, int], sharing: Sharing
) -> list[tuple[int, int]]:
    """The part of its side's pool that each feature hashes into: all of it, or one of its own by its number of ids."""
    parts = []
    taken = dict.fromkeys(pools, 0)
    for t, rows in zip(traffic, own, strict=True):
        hashed, pool = t.slot.num_rows - rows, pools.get(t.side, 0)
        if not hashed:
            parts.append((0, 0))
        elif sharing == "unified":
            parts.append((0, pool))
        else:
            of_side = sum(o.slot.num_rows - r for o, r in zip(traffic, own, strict=True) if o.side == t.side)
            first = min(taken[t.side], pool - 1)
            size = max(1, min(pool - first, int(pool * hashed / of_side)))
            parts.append((first, size))
            taken[t.side] = first + size
    return parts


def _share(t: SlotTraffic, own: int, pool_rows: int, in_pool: int, size: int) -> FeatureShare:
    """One line of the plan. A pool's bytes are counted by the share of its ids."""
    hashed, lookups = t.slot.num_rows - own, int(t.lookups_V.sum())
    pool_part = pool_rows * hashed / in_pool if hashed else 0.0
    pairs = max(pool_rows, 1) ** SALTS
    return FeatureShare(
        feature=t.slot.feature,
        side=t.side,
        num_ids=t.slot.num_rows,
        own_rows=own,
        pool_rows=pool_rows if hashed else 0,
        bytes=round((own + pool_part) * size),
        lookups=lookups,
        exact_share=float(t.lookups_V[:own].sum() / lookups) if lookups else 1.0,
        ids_per_pool_row=SALTS * in_pool / pool_rows if hashed else 0.0,
        same_share=float(-np.expm1((hashed - 1) * np.log1p(-1.0 / pairs))) if hashed > 1 and pairs > 1 else 0.0,
    )

"""Pieces of several requests in one pass, where that is predicted to take less time than one by one.

A pass costs a level's fixed part once instead of once a request, and then more for each candidate: interactions gather
the tokens of each candidate's request. With f the fixed part, of R requests that take s_r alone:

    in one pass: k * (sum s_r - (R - 1) f)        one by one: sum s_r

s_r and f are the cost model's, so they follow the machine; k is learned from passes, by level and size, and begins at
what `benchmarks/bench_batching.py` measured. Small pieces win, large ones lose, and the model says where (0032).

What is given up: answers agree with those of requests ranked alone within rounding, not to the last bit.

Legend: R requests, N candidates, P history positions, D width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from depthrank.engine.call_size import filled
from depthrank.engine.piece import Piece, Refined
from depthrank.model import CandidateLayout, CandidateState, ElasticRanker, RequestState
from depthrank.model.expert import RequestView
from depthrank.model.user_encoder import UserState
from depthrank.precision.product_mode import products_of
from depthrank.routing import CostRates

MOST_CANDIDATES = 1_024
FEW, FEW_FACTOR, MANY_FACTOR = 512, 1.1, 1.3  # the first belief of k, by the pass's candidates
PAYS = 0.95  # of the time one by one
SMOOTHING = 0.1
LEAST_FACTOR, MOST_FACTOR = 0.3, 5.0


@dataclass
class PassFactors:
    """k by level and power of two of the candidates; several threads may ask and tell."""

    _factors: dict[tuple[int, int], float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, level: int, candidates: int) -> float:
        """What a pass of so many candidates takes, as a multiple of the ideal."""
        first = FEW_FACTOR if candidates <= FEW else MANY_FACTOR
        return self._factors.get((level, candidates.bit_length()), first)

    def learn(self, level: int, candidates: int, ideal_ms: float, took_ms: float) -> None:
        """A pass took so long."""
        if ideal_ms <= 0 or took_ms <= 0:
            return
        with self._lock:
            known = self.of(level, candidates)
            new = min(MOST_FACTOR, max(LEAST_FACTOR, known + SMOOTHING * (took_ms / ideal_ms - known)))
            self._factors[level, candidates.bit_length()] = new


@dataclass(frozen=True)
class Predicted:
    """Thread-milliseconds of pieces one by one (by piece), in an ideal pass, and in a real one."""

    alone_ms: tuple[float, ...]
    ideal_ms: float
    shared_ms: float

    @property
    def pays(self) -> bool:
        """Whether one pass takes less."""
        return self.shared_ms < PAYS * sum(self.alone_ms)


def predicted(pieces: Sequence[Piece], rates: CostRates, factors: PassFactors) -> Predicted:
    """What pieces of one level are predicted to take."""
    level = pieces[0].level
    alone = tuple(rates.level_ms(level, piece.candidates, piece.history, warm=True) for piece in pieces)
    once = min(max(0.0, rates.warm[level + 1].fixed), *alone)
    ideal = sum(alone) - (len(pieces) - 1) * once
    return Predicted(alone, ideal, factors.of(level, sum(piece.candidates for piece in pieces)) * ideal)


def to_share(pieces: Sequence[Piece], rates: CostRates, factors: PassFactors) -> tuple[list[Piece], Predicted] | None:
    """The largest set of the smallest pieces of one level that pays in one pass and ends within every deadline, in
    their order; None where there is none."""
    level = min((piece.level for piece in pieces), default=0)
    small = sorted((piece for piece in pieces if piece.level == level), key=lambda piece: piece.candidates)
    while len(small) > 1:
        if sum(piece.candidates for piece in small) <= MOST_CANDIDATES:
            found = predicted(small, rates, factors)
            if found.pays and all(piece.pace.left_ms() > found.shared_ms for piece in small):
                chosen = set(map(id, small))
                return [piece for piece in pieces if id(piece) in chosen], found
        small.pop()
    return None


def refine_together(
    pieces: Sequence[Piece],
    expected: Predicted,
    factors: PassFactors,
    thread_s: Callable[[], float] = time.thread_time,
) -> list[Refined]:
    """One pass over pieces of one level and model, and what came of each; ``factors`` learn what it took."""
    started_s = thread_s()
    first, sizes = pieces[0], [piece.candidates for piece in pieces]
    index = torch.from_numpy(filled(np.arange(sum(sizes))))  # the last candidate may stand for several
    request_N = torch.arange(len(pieces)).repeat_interleave(torch.tensor(sizes))[index]
    seen = joined_requests(first.model, [piece.seen for piece in pieces], first.level)
    begun = CandidateState.joined([piece.begun for piece in pieces])
    begun = begun if len(index) == sum(sizes) else begun.select(index)
    before_NK = torch.cat([piece.before_NK for piece in pieces])[index]
    layout = CandidateLayout(request_N, len(pieces))
    with products_of(len(index), first.model.config.level_width(first.level)):
        logits_NK, after = first.model.refine(first.level, seen, begun, request_N, before_NK, layout)
    took_ms = (thread_s() - started_s) * 1e3
    factors.learn(first.level, sum(sizes), expected.ideal_ms, took_ms)
    told = {"level": first.level, "requests": len(pieces), "candidates": sizes, "predicted_ms": expected.shared_ms}
    refined, start, total_ms = [], 0, sum(expected.alone_ms)
    for size, alone_ms in zip(sizes, expected.alone_ms, strict=True):
        own = slice(start, start + size)
        part = _part(after, own)
        refined.append(Refined(logits_NK[own], part, took_ms * alone_ms / max(total_ms, 1e-9), told))
        start += size
    return refined


def may_share(model: ElasticRanker) -> bool:
    """Whether its levels run over several requests at once: foreign ones need not."""
    return not model.config.foreign


def joined_requests(model: ElasticRanker, seen: Sequence[RequestState], level: int) -> RequestState:
    """Several requests as a level of the model sees them, histories padded to the longest."""
    views, positions = [one.view for one in seen], max(one.view.age_RP.shape[1] for one in seen)
    depth = model.encoder_depth(level)
    state = UserState(
        views[0].state.x_SPD[:, :0].new_zeros(len(seen), positions, 0),  # no level reads the stream
        [_padded([view.state.keys_SHPd[layer] for view in views], positions, 2) for layer in range(depth)],
        [_padded([view.state.values_SHPd[layer] for view in views], positions, 2) for layer in range(depth)],
    )
    inputs = [view.inputs_RU for view in views if view.inputs_RU is not None]
    recent = [one.recent_RJ for one in seen if one.recent_RJ is not None]
    view = RequestView(
        state,
        None,
        _padded([one.age_RP for one in views], positions, 1),
        _padded([one.visible_RP for one in views], positions, 1),
        torch.cat([one.length_R for one in views]),
        torch.cat([one.tokens_RTD for one in views]),
        torch.cat(inputs) if inputs else None,
    )
    return RequestState(view, None, recent_RJ=torch.cat(recent) if recent else None)


def _padded(parts: Sequence[Tensor], positions: int, axis: int) -> Tensor:
    """Parts of one request each as one tensor, the axis of positions padded with zeros."""
    behind = 2 * (parts[0].dim() - 1 - axis)

    def whole(part: Tensor) -> Tensor:
        missing = positions - part.shape[axis]
        return functional.pad(part, [0] * behind + [0, missing]) if missing else part

    return torch.cat([whole(part) for part in parts])


def _part(state: CandidateState, own: slice) -> CandidateState:
    optional = (state.inputs_NC, state.code_N, state.counted_N, state.signals_NF)
    found = (None if part is None else part[own] for part in optional)
    return CandidateState(state.tokens_NTD[own], state.x_ND[own], None, *found)

"""What the user side and each level cost on this machine, measured on real requests at several widths.

Thread time, not wall time: another process on the same core must not become part of the model's cost. With one thread
that is the calling thread's own; with several, the process's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from depthrank.model import CandidateLayout, RequestState, level_flops
from depthrank.model.config import ModelConfig
from depthrank.precision.product_mode import products_of
from depthrank.routing import USER, CostModel
from depthrank.training.replay_requests import FullDepth, OneRequest

REPEATS = 2
PASSES = 4


def flops_costs(config: ModelConfig) -> CostModel:
    """Costs believed before anything is measured, from FLOPs."""
    return CostModel.from_flops([(f.request, f.candidate) for f in level_flops(config)], config.history_length)


def thread_clock() -> Callable[[], float]:
    """CPU seconds of the threads that torch computes with."""
    return time.thread_time if torch.get_num_threads() == 1 else time.process_time


@torch.inference_mode()
def measure_costs(
    full: FullDepth,
    requests: Sequence[OneRequest],
    clock_s: Callable[[], float],
    *,
    deadline_s: float | None = None,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> CostModel:
    """A cost model fitted to these requests, each at its own number of candidates and at narrower widths."""
    costs = _Recorder(flops_costs(full.model.config))
    for one in (*requests[:1], *requests[:1]):
        full.values(one)  # the first passes allocate
    for one in requests:
        for _ in range(REPEATS):
            _observe(full, one, costs, clock_s)
        if deadline_s is not None and monotonic_s() >= deadline_s:
            break
    return costs.fitted()


class _Recorder:
    """Collects observations, then shows them to the model in several orders: online, forgetting makes the last ones
    count; here all count alike."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._seen: list[tuple[int, int, int, float, bool]] = []

    def observe(self, level: int, candidates: int, history: int, ms: float, warm: bool) -> None:
        self._seen.append((level, candidates, history, ms, warm))

    def fitted(self) -> CostModel:
        rng = np.random.default_rng(0)
        for _ in range(PASSES):
            for i in rng.permutation(len(self._seen)).tolist():
                level, candidates, history, ms, warm = self._seen[i]
                self._costs.observe(level, candidates, history, ms, warm=warm)
        return self._costs


def _observe(full: FullDepth, one: OneRequest, costs: _Recorder, clock_s: Callable[[], float]) -> None:
    """One request: the user side cold and warm, level 0, and deeper levels at several widths, cold and warm."""
    model, n, history = full.model, one.num_candidates, one.history_length
    with _timed(costs, USER, 0, history, clock_s, (False,)):
        seen = model.begin(one.request, full.items)
    with _timed(costs, 0, n, history, clock_s, (False, True)):
        logits_NK = model.route(seen, full.items, one.candidates)
    deepens = model.config.encoder_layers > model.config.router_layers
    for width in _widths(n):
        if deepens:
            _levels(full, one, costs, clock_s, model.begin(one.request, full.items), logits_NK[:width], (False,))
            model.encoder.deepen_(seen.view.state, model.config.encoder_layers)
        _levels(full, one, costs, clock_s, seen, logits_NK[:width], (True,) if deepens else (False, True))
    with _timed(costs, USER, 0, 0, clock_s, (True,)), products_of(1, model.config.width):
        model.begin(one.request, full.items, state=seen.view.state)


def _levels(
    full: FullDepth,
    one: OneRequest,
    costs: _Recorder,
    clock_s: Callable[[], float],
    seen: RequestState,
    logits_NK: torch.Tensor,
    warm: tuple[bool, ...],
) -> None:
    """Every deeper level over the first candidates."""
    width, state = logits_NK.shape[0], None
    index = torch.arange(width)
    for level in range(1, full.model.config.num_levels):
        with _timed(costs, level, width, one.history_length, clock_s, warm):
            chosen = one.candidates.select(index)
            with products_of(width, full.model.config.width):
                state = full.model.start(full.items, chosen) if state is None else state
            request_N = chosen.request_of_candidate_N
            with products_of(width, full.model.config.level_width(level)):
                logits_NK, state = full.model.refine(
                    level, seen, state, request_N, logits_NK, CandidateLayout(request_N, 1)
                )
            full.model.probabilities(level, logits_NK).numpy()


@contextmanager
def _timed(
    costs: _Recorder, level: int, candidates: int, history: int, clock_s: Callable[[], float], warm: tuple[bool, ...]
) -> Iterator[None]:
    """Observe what happens inside, as cold, as warm, or as both where they are the same."""
    started = clock_s()
    yield
    took_ms = (clock_s() - started) * 1e3
    for temperature in warm:
        costs.observe(level, candidates, history, took_ms, warm=temperature)


def _widths(n: int) -> list[int]:
    """All candidates, and parts of them."""
    return sorted({n, max(1, n // 4), max(1, n // 16), max(1, n // 100)}, reverse=True)


def thinned_requests(requests: Sequence[OneRequest], most: int) -> list[OneRequest]:
    """Requests spread over the sizes there are: every k-th by candidates and history."""
    order = np.lexsort(([r.history_length for r in requests], [r.num_candidates for r in requests]))
    step = max(1, len(order) // most)
    return [requests[i] for i in order[::step][:most].tolist()]

"""The scaling curve: milliseconds of a request against the size of the model, in three ways of running it.

One family: width, layers, history and levels grow together, weights are random (time does not depend on them). What a
candidate costs when nothing is shared is its whole request side again, and that is the size on the axis.
- ``per_candidate``: the same model in batches of (request, candidate) pairs, every pair with a history of its own;
- ``shared``: the request side once, every candidate at every level (full depth);
- ``shared+adaptive``: levels beyond the router score ``widths``: of a fitted ladder where they are given.
Legend: N candidates, L history length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from depthrank.model import CandidateInputs, CandidateLayout, ElasticRanker, ItemSide, RequestInputs, level_flops
from depthrank.model.config import LevelConfig, ModelConfig, SideConfig

CANDIDATES = 1_000
PAIRS, MOST_PAIRS, PAIRS_GFLOP = 8, 256, 0.5
ADAPTIVE_WIDTHS = (100, 40, 24)
NUM_ITEMS = 2_000
FAMILY: tuple[dict[str, Any], ...] = (
    {"width": 32, "heads": 2, "history_length": 32, "router_layers": 1, "levels": ((0,),)},
    {"width": 64, "heads": 4, "history_length": 64, "router_layers": 1, "levels": ((0, 1),)},
    {"width": 128, "heads": 4, "history_length": 128, "router_layers": 1, "levels": ((0, 1), (2,))},
    {"width": 192, "heads": 4, "history_length": 256, "router_layers": 1, "levels": ((0, 1), (2, 3))},
    {"width": 256, "heads": 8, "history_length": 512, "router_layers": 1, "levels": ((0, 1), (2, 3), (4, 5))},
)

Plain = dict[str, Any]


def scaling_curve(
    *,
    seconds: float = 60.0,
    candidates: int = CANDIDATES,
    family: Sequence[dict[str, Any]] = FAMILY,
    widths: Sequence[int] = ADAPTIVE_WIDTHS,
    clock_s: Callable[[], float] = time.perf_counter,
) -> list[Plain]:
    """Points ``{"gflop_per_candidate", "mode", "ms", "ms_cold"}``, smallest model first, until ``seconds`` are over."""
    started, points = clock_s(), list[Plain]()
    for sizes in family:
        if points and clock_s() - started > seconds:
            break
        points += _points_of(config_of(sizes), candidates, widths, clock_s)
    return points


def config_of(sizes: dict[str, Any]) -> ModelConfig:
    """A model of the family."""
    own = {**sizes, "levels": tuple(LevelConfig(reads=reads) for reads in sizes["levels"])}
    request, item, candidate = SideConfig((), 4), SideConfig((), 8), SideConfig((), 2)
    return ModelConfig(("click",), (0.0,), 1, request, item, candidate, dropout=0.0, **own)


def exponent(points: Sequence[Plain], mode: str, key: str = "ms") -> float:
    """Slope of log milliseconds over log FLOPs a candidate; NaN below two points."""
    own = [p for p in points if p["mode"] == mode]
    if len(own) < 2:
        return float("nan")
    x, y = (np.log([p[name] for p in own]) for name in ("gflop_per_candidate", key))
    return float(np.polyfit(x, y, 1)[0])


@torch.inference_mode()
def _points_of(config: ModelConfig, n: int, adaptive: Sequence[int], clock_s: Callable[[], float]) -> list[Plain]:
    torch.manual_seed(0)
    model = ElasticRanker(config).eval()
    flops = level_flops(config)
    size = sum(level.request + level.candidate for level in flops) / 1e9
    items = model.encode_items(torch.zeros(NUM_ITEMS, 0, dtype=torch.int64), torch.randn(NUM_ITEMS, 8))
    request, some = _request(config, 1), _candidates(n, 1)
    batch = int(min(MOST_PAIRS, max(PAIRS, PAIRS_GFLOP / size)))  # small models need more pairs to keep the core busy
    pairs, paired = _request(config, batch), _candidates(batch, batch)
    widths = [n] * (config.num_levels - 1)
    narrow = [min(n, w) for w in adaptive[-len(widths) :]]

    def per_candidate() -> None:
        model(pairs, items, paired)

    per_pair = _fastest(per_candidate, clock_s) / batch
    found = [{"gflop_per_candidate": size, "mode": "per_candidate", "ms": per_pair * n, "ms_cold": per_pair * n}]
    for mode, plan in (("shared", widths), ("shared+adaptive", narrow)):
        state = model.encode_history(request, items, config.encoder_layers)
        warm = _fastest(partial(_run, model, items, request, some, plan, state), clock_s)
        cold = _fastest(partial(_run, model, items, request, some, plan, None), clock_s)
        found.append({"gflop_per_candidate": size, "mode": mode, "ms": warm, "ms_cold": cold})
    own = sum(level.candidate for level in flops) / 1e9
    sizes = {"candidates": n, "width": config.width, "history": config.history_length, "candidate_gflop": own}
    return [{**point, **sizes} for point in found]


def _run(
    model: ElasticRanker,
    items: ItemSide,
    request: RequestInputs,
    candidates: CandidateInputs,
    widths: Sequence[int],
    state: Any,
) -> None:
    """One request by a plan."""
    seen = model.begin(request, items, state=state)
    logits_NK, begun = model.route(seen, items, candidates), None
    for level, width in enumerate(widths, start=1):
        index = logits_NK[:, 0].topk(width).indices.sort().values
        candidates, logits_NK = candidates.select(index), logits_NK[index]
        begun = model.start(items, candidates) if begun is None else begun.select(index)
        request_N = candidates.request_of_candidate_N
        logits_NK, begun = model.refine(level, seen, begun, request_N, logits_NK, CandidateLayout(request_N, 1))


def _fastest(run: Callable[[], None], clock_s: Callable[[], float], passes: int = 3) -> float:
    """Milliseconds of the fastest of a few passes, after one to warm up."""
    run()
    times = []
    for _ in range(passes):
        started = clock_s()
        run()
        times.append(clock_s() - started)
    return min(times) * 1e3


def _request(config: ModelConfig, rows: int) -> RequestInputs:
    length = config.history_length
    history = torch.randint(1, NUM_ITEMS, (rows, length))
    zeros = torch.zeros(rows, length, dtype=torch.int64)
    return RequestInputs(
        torch.zeros(rows, 0, dtype=torch.int64),
        torch.randn(rows, 4),
        history,
        torch.ones_like(zeros),
        zeros,
        zeros,
        torch.full((rows,), length),
    )


def _candidates(n: int, requests: int) -> CandidateInputs:
    request_N = torch.arange(n) * requests // n
    return CandidateInputs(
        torch.randint(1, NUM_ITEMS, (n,)), torch.zeros(n, 0, dtype=torch.int64), torch.randn(n, 2), request_N
    )

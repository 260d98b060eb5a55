"""FLOPs of each level, counted by running the model on the meta device: shapes only, no data and no time.

What is counted are matrix products, two operations a multiply-add; norms, softmax and lookups are not. A level's cost
is linear in its candidates, so two sizes give both numbers exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from depthrank.model.config import ForeignConfig, ModelConfig, SideConfig
from depthrank.model.elastic_ranker import ElasticRanker
from depthrank.model.flop_count import FlopCount
from depthrank.model.inputs import CandidateInputs, ItemSide, RequestInputs

SIZES = (8, 24)


@dataclass(frozen=True)
class LevelFlops:
    """What a level adds: once a request (with a full history), and for each of its candidates."""

    request: float
    candidate: float


def level_flops(config: ModelConfig) -> tuple[LevelFlops, ...]:
    """FLOPs of every level, router first; item-side values are precomputed and cost nothing here."""
    with torch.device("meta"), torch.no_grad():
        model = ElasticRanker(config).eval()
        few, many = (_counts(model, size) for size in SIZES)
    found = []
    for at_few, at_many in zip(few, many, strict=True):
        candidate = (at_many - at_few) / (SIZES[1] - SIZES[0])
        found.append(LevelFlops(at_few - SIZES[0] * candidate, candidate))
    return tuple(found)


def _counts(model: ElasticRanker, num_candidates: int) -> list[int]:
    """FLOPs by level for one request on the current (meta) device."""
    config = model.config
    request, items, candidates = _made_up(config, num_candidates)
    rows_N = candidates.request_of_candidate_N
    router = config.foreign_at(0)
    with FlopCount() as counter:
        seen = model.begin(request, items)
        logits_NK = torch.zeros(num_candidates, len(config.tasks))
        if router is None:
            logits_NK = model.route(seen, items, candidates)
    counts, state = [counter.total + _foreign_flops(router, num_candidates)], None
    for level in range(1, config.num_levels):
        if (foreign := config.foreign_at(level)) is not None:
            counts.append(_foreign_flops(foreign, num_candidates))
            continue
        with FlopCount() as counter:
            state = model.start(items, candidates) if state is None else state
            logits_NK, state = model.refine(level, seen, state, rows_N, logits_NK)
        counts.append(counter.total)
    return counts


def _foreign_flops(foreign: ForeignConfig | None, num_candidates: int) -> int:
    """What the sharing compiler counted of a foreign level."""
    return 0 if foreign is None else round(foreign.flops_request + num_candidates * foreign.flops_candidate)


def _made_up(config: ModelConfig, n: int) -> tuple[RequestInputs, ItemSide, CandidateInputs]:
    """Inputs of the right shapes; tokens and history stand beside each other as in serving."""
    length, width = config.history_length, config.width
    history = torch.zeros(1, length, dtype=torch.int64)
    request_ids, request_floats = _columns(config.request, 1)
    request = RequestInputs(request_ids, request_floats, history, history, history, history, torch.tensor([length]))
    rows = max(n, 1)
    items = ItemSide(
        torch.zeros(rows, config.item_tokens, width),
        torch.zeros(rows, width),
        torch.zeros(rows, len(config.tasks)),
        *(_columns(config.item, rows) if config.keeps_item_columns else ()),
    )
    index = torch.zeros(n, dtype=torch.int64)
    return request, items, CandidateInputs(index, *_columns(config.candidate, n), index)


def _columns(side: SideConfig, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    num_ids = side.slots[-1].stop if side.slots else 0
    return torch.zeros(n, num_ids, dtype=torch.int64), torch.zeros(n, side.num_floats)

"""Held-out requests run one by one at full depth, as serving would, keeping every level's value of every candidate.

Legend: R requests, N candidates, C candidates of a request (padded), L levels, K tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from depthrank.catalogue import Catalogue
from depthrank.data import Batch, BatchLoader, Examples, evaluation_candidates
from depthrank.data.split_times import SPLIT_CODE
from depthrank.engine.item_store import ItemStore
from depthrank.engine.valuation import value_weights
from depthrank.events import EventLog
from depthrank.features import Counters, FeatureEncoder
from depthrank.model import CandidateInputs, ElasticRanker, ItemSide, RequestInputs, candidate_inputs, request_inputs
from depthrank.routing.replayed import Replayed
from depthrank.schema import Spec

CHUNK_CANDIDATES = 4_096
_LEFT_OUT = -1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Where held-out requests come from: everything a loader needs."""

    spec: Spec
    examples: Examples
    encoder: FeatureEncoder
    log: EventLog
    counters: Counters
    items: Catalogue
    users: Catalogue | None

    def requests(self, split: str, most: int, seed: int = 0, batch_requests: int = 1) -> tuple[BatchLoader, int]:
        """At most ``most`` requests of a split, drawn at random, by default one a batch, with the candidates that an
        evaluation ranks; and how many there are. Where a candidate was shown is left out: serving does not know it."""
        chosen = drawn(self.examples, split, most, seed)
        chosen = replace(chosen, position=np.full_like(chosen.position, -1))
        batches = msgspec.structs.replace(self.spec.training, batch_requests=batch_requests)
        loader = BatchLoader(
            chosen,
            split,
            msgspec.structs.replace(self.spec, training=batches),
            encoder=self.encoder,
            log=self.log,
            counters=self.counters,
            items=self.items,
            users=self.users,
            source=evaluation_candidates(self.spec, chosen, self.items.size),
            ahead=0,
        )
        return loader, len(chosen.of_split(split))


def drawn(examples: Examples, split: str, most: int, seed: int = 0) -> Examples:
    """The examples with at most ``most`` requests of ``split``, drawn at random with a fixed seed."""
    requests = examples.of_split(split)
    if len(requests) <= most:
        return examples
    kept = np.random.default_rng(seed).choice(requests, size=most, replace=False)
    codes = examples.split.copy()
    codes[requests] = _LEFT_OUT
    codes[kept] = SPLIT_CODE[split]
    return replace(examples, split=codes)


@dataclass(frozen=True, eq=False)
class OneRequest:
    """A request as tensors, its candidates, and what the model reads of the catalogue."""

    request: RequestInputs
    candidates: CandidateInputs
    batch: Batch

    @property
    def num_candidates(self) -> int:
        """Candidates N."""
        return len(self.batch.item_row)

    @property
    def history_length(self) -> int:
        """Tokens of the history."""
        return int(self.batch.history.length[0])


class FullDepth:
    """A model with the catalogue encoded: runs requests at full depth, all candidates at every level."""

    def __init__(self, spec: Spec, model: ElasticRanker, encoder: FeatureEncoder, items: Catalogue) -> None:
        self.spec, self.model = spec, model.eval()
        self.items: ItemSide = ItemStore(model, encoder, items).gather(np.arange(items.size, dtype=np.int64))
        self.weight_K = value_weights(spec).astype(np.float64)

    def prepared(self, batches: Iterable[Batch]) -> Iterator[OneRequest]:
        """Batches of one request each as tensors; a request without candidates is left out."""
        for batch in batches:
            assert len(batch) == 1, "one request a batch"
            if len(batch.item_row):
                candidates = candidate_inputs(batch.candidate, batch.item_row, batch.request_of_candidate)
                yield OneRequest(request_inputs(batch.request, batch.history), candidates, batch)

    @torch.inference_mode()
    def values(self, one: OneRequest) -> Floats:
        """Values at every level, float64 [L, N]."""
        seen = self.model.begin(one.request, self.items)
        parts: list[list[Floats]] = [[] for _ in range(self.model.config.num_levels)]
        for start in range(0, one.num_candidates, CHUNK_CANDIDATES):
            index = torch.arange(start, min(start + CHUNK_CANDIDATES, one.num_candidates))
            logits = self.model.levels_from(seen, self.items, one.candidates.select(index))
            for level, logits_NK in enumerate(logits):
                probability_NK = self.model.probabilities(level, logits_NK).numpy().astype(np.float64)
                parts[level].append(probability_NK @ self.weight_K)
        return np.stack([np.concatenate(p) for p in parts]) * self.factor(one.batch)

    def factor(self, batch: Batch) -> Floats:
        """What values are multiplied by, float64 [N]; 1 where the spec names nothing, 0 where it is missing."""
        name = self.spec.value.times
        if name is None or name not in batch.columns:
            return np.ones(len(batch.item_row))
        return np.nan_to_num(batch.columns[name].astype(np.float64), nan=0.0)


def replay(
    full: FullDepth,
    requests: Iterable[OneRequest],
    *,
    top: int = 10,
    deadline_s: float | None = None,
    monotonic_s: Callable[[], float] = time.monotonic,
    on_request: Callable[[int], None] = lambda done: None,
) -> Replayed:
    """Run requests at full depth until they or the time end; one whose values are no numbers is counted, not kept."""
    found: list[tuple[OneRequest, Floats]] = []
    left_out = 0
    for one in requests:
        value_LN = full.values(one)
        if np.isfinite(value_LN).all():
            found.append((one, value_LN))
        else:
            left_out += 1
        on_request(len(found))
        if deadline_s is not None and monotonic_s() >= deadline_s:
            break
    return _joined(full, found, top, left_out)


def _joined(full: FullDepth, found: list[tuple[OneRequest, Floats]], top: int, left_out: int) -> Replayed:
    """Requests as padded matrices, candidates in the order of level 0 (ties by their order in the request)."""
    num_levels, counted_K = full.model.config.num_levels, full.weight_K > 0
    columns = max((one.num_candidates for one, _ in found), default=0)
    value_LRC = np.full((num_levels, len(found), columns), -np.inf)
    factor_RC, relevant_RC = np.zeros((len(found), columns)), np.zeros((len(found), columns), dtype=np.bool_)
    for r, (one, value_LN) in enumerate(found):
        order_N, n = np.argsort(-value_LN[0], kind="stable"), one.num_candidates
        value_LRC[:, r, :n] = value_LN[:, order_N]
        factor_RC[r, :n] = full.factor(one.batch)[order_N]
        relevant_RC[r, :n] = (np.nan_to_num(one.batch.label[order_N][:, counted_K]) > 0).any(axis=1)
    users = np.array([one.batch.user[0] for one, _ in found], dtype=str)
    return Replayed(
        value_LRC,
        np.array([one.num_candidates for one, _ in found], dtype=np.int64),
        factor_RC,
        relevant_RC,
        np.array([one.history_length for one, _ in found], dtype=np.int64),
        np.unique(users, return_inverse=True)[1].astype(np.int64),
        np.array([one.batch.time_ms[0] for one, _ in found], dtype=np.int64),
        [{name: values[0] for name, values in one.batch.context.items()} for one, _ in found],
        top,
        left_out,
    )

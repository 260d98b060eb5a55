"""Which candidates a request of a batch has: its own, its own with sampled negatives, or the whole catalogue.

Shape letters: R requests, N candidates, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from depthrank.data.examples import Examples
from depthrank.data.negatives import NegativeSampler
from depthrank.data.shown import Column
from depthrank.errors import SpecError
from depthrank.schema import Spec

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """N candidates of R requests, sorted by request.

    request_of_candidate: int64 [N]; item_row: int64 [N]; columns: N values each; label: float32 [N, K]; position: int32
    [N]; log_q: float32 [N]; is_sampled: bool [N].
    """

    request_of_candidate: Int64
    item_row: Int64
    columns: dict[str, Column]
    label: npt.NDArray[np.float32]
    position: npt.NDArray[np.int32]
    log_q: npt.NDArray[np.float32]
    is_sampled: npt.NDArray[np.bool_]


class CandidateSource(Protocol):
    """Gives requests their candidates."""

    def counts(self, requests: Int64) -> Int64:
        """About how many candidates each request (a row of the examples) will have, int64 [R]."""
        ...

    def of(self, requests: Int64, rng: np.random.Generator) -> Candidates:
        """The candidates of these requests; ``rng`` makes draws repeat."""
        ...


class OwnCandidates:
    """The candidates of the examples, as they were shown."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def counts(self, requests: Int64) -> Int64:
        return self._examples.offsets[requests + 1] - self._examples.offsets[requests]

    def of(self, requests: Int64, rng: np.random.Generator) -> Candidates:
        rows = self._examples.candidates_of(requests)
        return Candidates(
            request_of_candidate=np.repeat(np.arange(len(requests), dtype=np.int64), self.counts(requests)),
            item_row=self._examples.item_row[rows],
            columns={c: values[rows] for c, values in self._examples.candidate.items()},
            label=self._examples.label[rows],
            position=self._examples.position[rows],
            log_q=np.zeros(len(rows), dtype=np.float32),
            is_sampled=np.zeros(len(rows), dtype=np.bool_),
        )


class SampledCandidates:
    """The positive of each request first, then its sampled negatives, drawn for a ``share`` of the requests.

    ``log_q`` of a negative is the log chance that one draw gives this item to this user, of the positive 0. Labels of a
    negative are 0.
    """

    def __init__(self, examples: Examples, sampler: NegativeSampler, per_positive: int, share: float = 1.0) -> None:
        assert examples.sampled, "shown candidates have their own negatives"
        self._examples, self._sampler, self._per_positive = examples, sampler, per_positive
        self._share = share
        self._user_code = sampler.codes_of(examples.user)

    def counts(self, requests: Int64) -> Int64:
        return np.full(len(requests), 1 + round(self._per_positive * self._share), dtype=np.int64)

    def of(self, requests: Int64, rng: np.random.Generator) -> Candidates:
        positive = self._examples.item_row[requests]  # one candidate a request: rows are requests
        code = self._user_code[requests]
        drawn = np.flatnonzero(rng.random(len(requests)) < self._share) if self._share < 1 else np.arange(len(requests))
        draw = self._sampler.draw(code[drawn], positive[drawn], rng)
        request = np.concatenate([np.arange(len(requests), dtype=np.int64), drawn[draw.request]])
        item_row = np.concatenate([positive, draw.item_row])
        order = np.argsort(request, kind="stable")  # stable: the positive stays first
        request, item_row, is_sampled = request[order], item_row[order], order >= len(requests)
        label = np.where(is_sampled[:, None], np.float32(0), self._examples.label[requests][request])
        return Candidates(
            request_of_candidate=request,
            item_row=item_row,
            columns={},
            label=label.astype(np.float32),
            position=np.full(len(request), -1, dtype=np.int32),
            log_q=np.where(is_sampled, self._sampler.log_q(code[request], item_row), np.float32(0)).astype(np.float32),
            is_sampled=is_sampled,
        )


class WithUnlabelled:
    """The candidates of another source, and for a ``share`` of the requests ``number`` items of the catalogue beside
    them, drawn evenly and without labels: what a request has to rank when it is served, as far as nobody was shown it.
    """

    def __init__(self, source: CandidateSource, num_items: int, number: int, share: float) -> None:
        self._source, self._num_items = source, num_items
        self._number, self._share = min(number, num_items - 1), share

    def counts(self, requests: Int64) -> Int64:
        return self._source.counts(requests) + round(self._number * self._share)

    def of(self, requests: Int64, rng: np.random.Generator) -> Candidates:
        own = self._source.of(requests, rng)
        chosen = np.flatnonzero(rng.random(len(requests)) < self._share)
        drawn = [1 + rng.choice(self._num_items - 1, self._number, replace=False) for _ in chosen]
        item_row = np.concatenate([own.item_row, *drawn]).astype(np.int64)
        request = np.concatenate([own.request_of_candidate, np.repeat(chosen, self._number)])
        order = np.argsort(request, kind="stable")  # stable: what was shown stays first
        more = len(request) - len(own.item_row)
        unknown = np.full((more, own.label.shape[1]), np.nan, dtype=np.float32)
        return Candidates(
            request_of_candidate=request[order],
            item_row=item_row[order],
            columns={},
            label=np.concatenate([own.label, unknown])[order],
            position=np.concatenate([own.position, np.full(more, -1, dtype=np.int32)])[order],
            log_q=np.concatenate([own.log_q, np.zeros(more, dtype=np.float32)])[order],
            is_sampled=np.concatenate([own.is_sampled, np.zeros(more, dtype=np.bool_)])[order],
        )


class CatalogueCandidates:
    """Every item of the catalogue, without those the user saw before (``seen`` keeps the positives in).

    ``seen``: request rows of the examples to item rows; see ``SeenItems``. Candidate columns are missing: nobody sent
    them.
    """

    def __init__(self, examples: Examples, num_items: int, seen: SeenItems | None) -> None:
        assert not examples.candidate, "the whole catalogue has no candidate columns: use candidates: own"
        self._examples, self._num_items, self._seen = examples, num_items, seen

    def counts(self, requests: Int64) -> Int64:
        return np.full(len(requests), self._num_items - 1, dtype=np.int64)

    def of(self, requests: Int64, rng: np.random.Generator) -> Candidates:
        kept = np.ones((len(requests), self._num_items), dtype=np.bool_)
        kept[:, 0] = False
        own = self._examples.candidates_of(requests)
        own_count = self._examples.offsets[requests + 1] - self._examples.offsets[requests]
        own_request = np.repeat(np.arange(len(requests), dtype=np.int64), own_count)
        own_item = self._examples.item_row[own]
        if self._seen is not None:
            seen_request, seen_item = self._seen.of(requests)
            kept[seen_request, seen_item] = False
        positive = np.nan_to_num(self._examples.label[own]).max(axis=1) > 0
        kept[own_request[positive], own_item[positive]] = own_item[positive] > 0
        request, item_row = np.nonzero(kept)
        label = np.zeros((len(request), self._examples.label.shape[1]), dtype=np.float32)
        place = np.cumsum(kept, axis=None).reshape(kept.shape) - 1
        known = kept[own_request, own_item]
        label[place[own_request[known], own_item[known]]] = self._examples.label[own[known]]
        return Candidates(
            request_of_candidate=request.astype(np.int64),
            item_row=item_row.astype(np.int64),
            columns={},
            label=label,
            position=np.full(len(request), -1, dtype=np.int32),
            log_q=np.zeros(len(request), dtype=np.float32),
            is_sampled=np.zeros(len(request), dtype=np.bool_),
        )


class SeenItems:
    """Per request the items of the user's positives at an earlier time."""

    def __init__(self, examples: Examples) -> None:
        codes = {u: i for i, u in enumerate(dict.fromkeys(examples.user))}
        user = np.array([codes[u] for u in examples.user], dtype=np.int64)
        lengths = np.diff(examples.offsets)
        positive = np.nan_to_num(examples.label).max(axis=1, initial=0.0) > 0
        user_n, time_n = np.repeat(user, lengths)[positive], np.repeat(examples.time_ms, lengths)[positive]
        order = np.lexsort((time_n, user_n))
        self._item_row, self._time_ms = examples.item_row[positive][order], time_n[order]
        count = np.bincount(user_n, minlength=len(codes))
        self._stop = np.cumsum(count)
        self._start = self._stop - count
        self._user, self._request_time_ms = user, examples.time_ms

    def of(self, requests: Int64) -> tuple[Int64, Int64]:
        """(index of the request, item row) of everything seen before the request's time, int64 [M] each."""
        index, items = [], []
        for i, r in enumerate(requests.tolist()):
            start, stop = self._start[self._user[r]], self._stop[self._user[r]]
            before = start + np.searchsorted(self._time_ms[start:stop], self._request_time_ms[r])
            items.append(self._item_row[start:before])
            index.append(np.full(before - start, i, dtype=np.int64))
        return np.concatenate(index), np.concatenate(items)


def training_candidates(
    spec: Spec, examples: Examples, num_items: int, *, share: float = 1.0, learns: bool = False
) -> CandidateSource:
    """What training and validation batches score: shown candidates, with unlabelled ones beside them where a step
    ``learns`` and the spec says so; or positives with sampled negatives.

    Raises SpecError where unlabelled candidates cannot be had.
    """
    unlabelled = spec.training.unlabelled
    if unlabelled is not None and (examples.sampled or examples.candidate):
        raise SpecError(
            "training.unlabelled: "
            + (
                "an events file has negatives drawn from the catalogue already"
                if examples.sampled
                else f"candidates have columns of their own ({', '.join(examples.candidate)}), which an item of the "
                "catalogue lacks"
            )
            + "; leave it out"
        )
    if not examples.sampled:
        own = OwnCandidates(examples)
        if unlabelled is None or not learns:
            return own
        return WithUnlabelled(own, num_items, unlabelled, spec.training.unlabelled_share)
    assert spec.dataset.events is not None, "only an events file has positives alone"
    settings = spec.dataset.events.negatives
    return SampledCandidates(examples, NegativeSampler(settings, examples, num_items), settings.per_positive, share)


def evaluation_candidates(spec: Spec, examples: Examples, num_items: int) -> CandidateSource:
    """What ``spec.evaluation`` ranks for each request."""
    if spec.evaluation.candidates == "own":
        return training_candidates(spec, examples, num_items)
    seen = SeenItems(examples) if spec.evaluation.exclude_seen else None
    return CatalogueCandidates(examples, num_items, seen)

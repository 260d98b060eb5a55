"""Request-grouped batches of a split, the next one prepared in a background thread."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from depthrank.catalogue import Catalogue
from depthrank.data.batch import Batch, BatchAssembler
from depthrank.data.candidates import CandidateSource, training_candidates
from depthrank.data.examples import Examples
from depthrank.data.histories_in_memory import MAX_EVENTS, HistoriesInMemory
from depthrank.data.prefetch import prefetch
from depthrank.data.token_histories import TokenHistories
from depthrank.events import EventLog
from depthrank.features import Counters, FeatureEncoder, HistoryCodes
from depthrank.schema import Spec

Int64 = npt.NDArray[np.int64]


USUAL_REQUESTS, USUAL_ROWS = 128, 512


def usual_requests(count_R: Int64) -> int:
    """Requests of a batch where the spec says nothing; ``count_R``: candidates each.

    A batch of few rows costs nearly what one of many does: on a log of single candidates 512 requests a step gave AUC
    .767 in two minutes, 128 gave .724 (docs/log.md).
    """
    mean = max(float(count_R.mean()), 1.0) if count_R.size else 1.0
    return max(USUAL_REQUESTS, min(USUAL_ROWS, round(USUAL_ROWS / mean)))


FEW_CANDIDATES, USUAL_CANDIDATES, STEPS = 1_024, 4_096, 128


def usual_candidates(count_R: Int64) -> int:
    """Candidates of a batch that learns from what was shown where the spec says nothing: for 128 steps an epoch.

    Lists of thirty products, 136,000 rows: 34 steps an epoch of 4,096 rows, or 136 of 1,024. After two epochs NE of the
    router was .830 and .772 (docs/quality.md, data from outside). On a log of 27,000 rows 512 brought nothing.
    """
    return int(np.clip(int(count_R.sum()) // STEPS, FEW_CANDIDATES, USUAL_CANDIDATES))


class BatchLoader:
    """Batches of a split: at most ``training.batch_requests`` requests (default: ``usual_requests``) and
    ``training.batch_candidates`` candidates each (default: ``usual_candidates``; a request with more is a batch of its
    own).

    ``epoch(e)`` depends on (seed, e) alone: a run that is interrupted continues at any epoch with the same batches.
    Training takes up to ``training.requests_per_user`` neighbouring requests of a user together (their histories share
    one encoding) and shuffles those runs; other splits come in the order of time and without the positions at which
    candidates were shown, as when serving. ``source``: which candidates a
    request has, by default those that training scores. ``share_histories``: one sequence for all requests of a user
    that read a prefix of it (``Batch.shared``), where the events fit in memory. ``max_requests``: a fixed random part
    of the split. ``ahead``: batches prepared in advance; 0 does
    without a thread.
    """

    def __init__(
        self,
        examples: Examples,
        split: str,
        spec: Spec,
        *,
        encoder: FeatureEncoder,
        log: EventLog,
        counters: Counters | None,
        items: Catalogue,
        users: Catalogue | None,
        seed: int = 0,
        source: CandidateSource | None = None,
        share_histories: bool = False,
        max_requests: int | None = None,
        ahead: int = 2,
    ) -> None:
        self._requests = examples.of_split(split)
        if max_requests is not None and len(self._requests) > max_requests:
            self._requests = np.sort(np.random.default_rng(0).choice(self._requests, max_requests, replace=False))
        codes = HistoryCodes(log, items, spec.history_actions)
        if counters is not None:
            counters.index_all()
        memory = None
        if log.stats().events <= MAX_EVENTS:
            memory = HistoriesInMemory(log, [examples.user[r] for r in self._requests.tolist()], spec.history_actions)
        tokens = None
        if share_histories and memory is not None:
            shortest = round(spec.training.min_window * spec.history.length) if split == "train" else None
            tokens = TokenHistories(memory, codes, spec.history.length, spec.history_events, shortest)
        self._assembler = BatchAssembler(
            spec,
            examples,
            encoder,
            log,
            counters,
            items,
            users,
            codes,
            memory,
            tokens,
            with_positions=split == "train",
        )
        share = spec.training.deep_share if split == "train" else 1.0
        self._source = source or training_candidates(spec, examples, items.size, share=share, learns=split == "train")
        counts, learns = self._source.counts(self._requests), split == "train" and not examples.sampled
        self._batch_requests = spec.training.batch_requests or usual_requests(counts)
        usual = usual_candidates(counts) if learns else USUAL_CANDIDATES
        self._batch_candidates = spec.training.batch_candidates or usual
        self._shuffle, self._seed, self._ahead = split == "train", seed, ahead
        self._run_of_request, self._num_runs = user_runs(examples.user, self._requests, spec.training.requests_per_user)

    def __len__(self) -> int:
        """Requests of an epoch."""
        return len(self._requests)

    @property
    def num_batches(self) -> int:
        """Batches of the first epoch; others differ a little where requests have different numbers of candidates."""
        return self.batches_in(0)

    def batches_in(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self._cuts(self._order(epoch))) - 1

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int, only: Container[int] | None = None) -> Generator[Batch, None, None]:
        """All batches of one epoch, or those of the numbers ``only``, which are the same then.

        Closing the iterator, or leaving it to the garbage collector, ends its thread.
        """
        if not self._ahead:
            return self._batches(epoch, only)
        return prefetch(self._batches(epoch, only), self._ahead)

    def _batches(self, epoch: int, only: Container[int] | None) -> Generator[Batch, None, None]:
        order = self._order(epoch)
        cuts = self._cuts(order)
        for number, (start, stop) in enumerate(pairwise(cuts)):
            if only is None or number in only:
                rng = np.random.default_rng((self._seed, epoch, number))
                yield self._assembler.assemble(order[start:stop], self._source, rng)

    def _order(self, epoch: int) -> Int64:
        if not self._shuffle:
            return self._requests
        rng = np.random.default_rng((self._seed, epoch))
        return self._requests[np.argsort(rng.random(self._num_runs)[self._run_of_request], kind="stable")]

    def _cuts(self, order: Int64) -> list[int]:
        """Where batches begin and end: 0 = cuts[0] < cuts[1] < ... = R."""
        total = np.cumsum(self._source.counts(order))
        cuts, start, before = [0], 0, 0
        while start < len(order):
            fitting = int(np.searchsorted(total, before + self._batch_candidates, side="right"))
            start = min(max(fitting, start + 1), start + self._batch_requests)
            before = int(total[start - 1])
            cuts.append(start)
        return cuts


def user_runs(user: list[str], requests: Int64, most: int) -> tuple[Int64, int]:
    """Runs of at most ``most`` requests of one user, neighbours in time: the run of each request, and their number."""
    if not len(requests):
        return np.zeros(0, np.int64), 0
    _, code = np.unique(np.array([user[r] for r in requests.tolist()], dtype=object).astype(str), return_inverse=True)
    by_user = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(code[by_user]) != 0])
    place = np.arange(len(requests)) - np.repeat(starts, np.diff(np.r_[starts, len(requests)]))
    run = np.empty(len(requests), dtype=np.int64)
    run[by_user] = np.cumsum(place % most == 0) - 1
    return run, int(run.max()) + 1

"""A batch: what one training step reads, encoded exactly as serving encodes a request.

Shape letters: R requests, N candidates (flat, sorted by request), L history length, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthrank.catalogue import Catalogue
from depthrank.data.candidates import Candidates, CandidateSource
from depthrank.data.examples import Examples
from depthrank.data.histories_in_memory import HistoriesInMemory
from depthrank.data.token_histories import SharedHistory, TokenHistories
from depthrank.events import EventLog
from depthrank.features import Counters, Encoded, EncodedHistory, FeatureEncoder, HistoryCodes
from depthrank.schema import Spec

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """R requests with N candidates.

    request: [R] request columns; history: [R] histories as of each request's time; candidate: [N] candidate columns.
    item_row: int64 [N] in the items catalogue; request_of_candidate: int64 [N], ascending; label: float32 [N, K], NaN =
    none; position: int32 [N], -1 = unknown; log_q: float32 [N], log probability of a draw for sampled negatives, 0 for
    others; is_sampled: bool [N]; user: R ids; time_ms: int64 [R]; example: int64 [R], rows of the examples;
    context: the raw values, for slices of metrics. ``shared``: where it is given, ``history`` is its [S] sequences, and
    it says which of them each request reads, and how much of it. ``positives_only``: nothing was shown; candidates are
    positives and, unless training picks them itself, drawn negatives.
    """

    request: Encoded
    history: EncodedHistory
    candidate: Encoded
    item_row: Int64
    request_of_candidate: Int64
    label: npt.NDArray[np.float32]
    position: npt.NDArray[np.int32]
    log_q: npt.NDArray[np.float32]
    is_sampled: npt.NDArray[np.bool_]
    user: list[str]
    time_ms: Int64
    example: Int64
    context: dict[str, list[object]]
    columns: dict[str, npt.NDArray[np.generic]]
    shared: SharedHistory | None = None
    positives_only: bool = False

    def __len__(self) -> int:
        return len(self.user)

    @property
    def offsets(self) -> Int64:
        """int64 [R+1]: request r holds candidates offsets[r]:offsets[r+1]."""
        return np.searchsorted(self.request_of_candidate, np.arange(len(self) + 1)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class BatchAssembler:
    """Joins requests with histories, counters and encoded columns. Holds what serving holds, and the examples.

    ``with_positions``: whether ``position`` features see where a candidate was shown, which serving never knows.
    """

    spec: Spec
    examples: Examples
    encoder: FeatureEncoder
    log: EventLog
    counters: Counters | None
    items: Catalogue
    users: Catalogue | None
    codes: HistoryCodes
    memory: HistoriesInMemory | None = None
    tokens: TokenHistories | None = None
    with_positions: bool = True

    def assemble(self, requests: Int64, source: CandidateSource, rng: np.random.Generator) -> Batch:
        """The batch of these rows of the examples, with candidates from ``source``."""
        return self._encode(requests, source.of(requests, rng))

    def _encode(self, requests: Int64, candidates: Candidates) -> Batch:
        examples, rows = self.examples, requests.tolist()
        user = [examples.user[r] for r in rows]
        time_ms = examples.time_ms[requests]
        context = {c: [values[r] for r in rows] for c, values in examples.context.items()}
        shared = self.tokens.shared(user, time_ms) if self.tokens is not None else None
        history = self._history(user, time_ms) if shared is None else shared.sequences
        own = history if shared is None or not self.encoder.reads_history else shared.of_requests(time_ms)
        return Batch(
            request=self.encoder.encode_requests(
                user, examples.user_row[requests], context, time_ms, self.users, self.counters, own
            ),
            history=history,
            candidate=self.encoder.encode_candidates(
                candidates.item_row,
                candidates.request_of_candidate,
                user,
                time_ms,
                candidates.columns,
                self.counters,
                self.items,
                candidates.position if self.with_positions else None,
                own,
            ),
            item_row=candidates.item_row,
            request_of_candidate=candidates.request_of_candidate,
            label=candidates.label,
            position=candidates.position,
            log_q=candidates.log_q,
            is_sampled=candidates.is_sampled,
            user=user,
            time_ms=time_ms,
            example=requests,
            context=context,
            columns=candidates.columns,
            shared=shared,
            positives_only=examples.sampled,
        )

    def _history(self, user: list[str], time_ms: Int64) -> EncodedHistory:
        """Histories as of each request, of the same events that serving reads; no longer than the longest of them."""
        spec = self.spec
        if self.memory is not None:
            events = self.memory.histories(user, time_ms, spec.history_events)
        else:
            events = self.log.histories(user, time_ms, spec.history_events, spec.history_actions)
        full = self.encoder.encode_history(events, self.codes, time_ms)
        longest = int(full.length.max(initial=0))
        return EncodedHistory(
            rows=full.rows[:, :longest],
            actions=full.actions[:, :longest],
            gaps=full.gaps[:, :longest],
            ages=full.ages[:, :longest],
            length=full.length,
        )

"""One loaded model version with everything a request reads from it: model, encoder, catalogues, item-side values."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from depthrank.artifact import Artifact
from depthrank.catalogue import UpsertResult
from depthrank.engine.costs import CostMeter
from depthrank.engine.item_store import ItemStore
from depthrank.engine.overlay_ages import StateAges
from depthrank.engine.shared_pass import PassFactors
from depthrank.engine.unsent_columns import UnsentColumns
from depthrank.engine.upserts import Replay, pack_upsert, replay_upserts
from depthrank.engine.user_side import Now
from depthrank.engine.user_states import UserStates
from depthrank.engine.valuation import value_weights
from depthrank.events import EventLog, HistoryBatch
from depthrank.features import Counters, EncodedHistory, HistoryCodes
from depthrank.routing import AdaptivePolicy, CostModel, LevelCost


@dataclass
class _Upserted:
    """What upserts change, and every generation of a ranker shares: the newest item store, and what was replayed."""

    replayed: Replay
    store: ItemStore
    lock: threading.Lock = field(default_factory=threading.Lock)


class Generation:
    """What stays the same for all requests to a model version, but for upserts, which it applies.

    A delta makes another generation of it (``after``), which shares all that the delta does not change.
    """

    def __init__(self, artifact: Artifact, log: EventLog, states: UserStates, ages: StateAges | None = None) -> None:
        """Encode the catalogue, as the log's upserts leave it, and rebuild the counters from the log."""
        self.artifact, self.items, self.users = artifact, artifact.items, artifact.users
        self.policy: AdaptivePolicy | None = artifact.adaptive
        self.states = states
        self.log, self._ages = log, ages or StateAges(0.0, time.monotonic)
        self._encoder_since = artifact.sequence
        replayed = replay_upserts(self.items, log)
        self.store = ItemStore(artifact.model, artifact.encoder, self.items)
        self.upserted = _Upserted(replayed, self.store)
        self.codes = HistoryCodes(log, self.items, artifact.spec.history_actions)
        self.counters = Counters.rebuild(artifact.spec, log, self.items, self.users)
        self.pass_factors = PassFactors()
        self.unsent = UnsentColumns(artifact.spec)
        self.weight_K: NDArray[np.float32] = value_weights(artifact.spec)

    def after(self, artifact: Artifact, store: ItemStore, *, same_encoder: bool) -> Generation:
        """The generation of the artifact with one more delta; it serves once the ranker points to it."""
        assert self.costs and self.flops, "measured by both from now on"
        new = copy.copy(self)  # with the costs measured so far
        new.artifact, new.policy, new.store = artifact, artifact.adaptive, store
        new._encoder_since = self._encoder_since if same_encoder else artifact.sequence
        return new

    @property
    def replayed(self) -> Replay:
        """The log's upserts, as far as they are applied."""
        return self.upserted.replayed

    @property
    def now(self) -> Now:
        """What user states are made of."""
        return Now(self.artifact.sequence, self._encoder_since, self._ages)

    @cached_property
    def flops(self) -> tuple[LevelCost, ...]:
        """FLOPs of each level."""
        return tuple(LevelCost(f.request, f.candidate) for f in self.artifact.level_flops)

    @cached_property
    def costs(self) -> CostMeter:
        """What stages take; what tuning or training measured, or a belief from FLOPs, until something has run here."""
        served = self.artifact.precision
        if served is not None and served.policy is not None and served.policy.costs is not None:
            return CostMeter(CostModel.from_plain(dict(served.policy.costs)).reopened())
        if self.policy is not None:
            return CostMeter(self.policy.costs.reopened())
        flops = [(cost.request, cost.candidate) for cost in self.flops]
        return CostMeter(CostModel.from_flops(flops, self.artifact.model.config.history_length))

    def encode_history(self, events: HistoryBatch, time_ms: int) -> EncodedHistory:
        """One user's events as tokens as of a time. Raises LogError where ids are asked of a log that cannot answer."""
        return self.artifact.encoder.encode_history(events, self.codes, np.array([time_ms], dtype=np.int64))

    def upsert_items(self, columns: Mapping[str, Sequence[object]]) -> UpsertResult:
        """Change or add catalogue rows, durably, and publish their encoded values.

        Raises RequestError, StorageFullError, LogError; then nothing has changed.
        """
        with self.upserted.lock:
            self._apply_appended()
            result = self.items.upsert(columns, record=lambda: self._append_upsert(columns))
            self.upserted.store.refresh(np.unique(result.rows))
            return result

    @property
    def last_upsert(self) -> int:
        """The number of the log's newest upsert that is applied; -1: none."""
        return self.replayed.last

    def apply_upserts(self) -> None:
        """Apply the upserts that others appended to the log; those that do not fit are counted, as at the start."""
        with self.upserted.lock:
            self._apply_appended()

    def _apply_appended(self) -> None:
        newer = replay_upserts(self.items, self.log, after=self.replayed.last)
        self.upserted.store.refresh(newer.rows)
        self.upserted.replayed = self.replayed + newer

    def _append_upsert(self, columns: Mapping[str, Sequence[object]]) -> None:
        number = self.log.append_upsert(pack_upsert(columns))
        self.upserted.replayed = self.replayed + Replay(1, 0, number)

"""One loaded model version with everything a request reads from it: model, encoder, catalogues, item-side values."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from depthrank.artifact import Artifact
from depthrank.catalogue import UpsertResult
from depthrank.engine.costs import CostMeter
from depthrank.engine.item_store import ItemStore
from depthrank.engine.upserts import Replay, pack_upsert, replay_upserts
from depthrank.engine.user_states import UserStates
from depthrank.engine.valuation import value_weights
from depthrank.events import EventLog, HistoryBatch
from depthrank.features import Counters, EncodedHistory, HistoryCodes
from depthrank.model import level_flops
from depthrank.routing import AdaptivePolicy, CostModel, LevelCost


class Generation:
    """What stays the same for all requests to a model version, but for upserts, which it applies."""

    def __init__(self, artifact: Artifact, log: EventLog, states: UserStates) -> None:
        """Encode the catalogue, as the log's upserts leave it, and rebuild the counters from the log."""
        self.artifact, self.items, self.users = artifact, artifact.items, artifact.users
        self.policy: AdaptivePolicy | None = artifact.adaptive
        self.states = states
        self._log, self._upsert_lock = log, threading.Lock()
        self.replayed = replay_upserts(self.items, log)
        self.store = ItemStore(artifact.model, artifact.encoder, self.items)
        self.codes = HistoryCodes(log, self.items, artifact.spec.history_actions)
        self.counters = Counters.rebuild(artifact.spec, log, self.items, self.users)
        self.weight_K: NDArray[np.float32] = value_weights(artifact.spec)

    @cached_property
    def flops(self) -> tuple[LevelCost, ...]:
        """FLOPs of each level."""
        return tuple(LevelCost(f.request, f.candidate) for f in level_flops(self.artifact.model.config))

    @cached_property
    def costs(self) -> CostMeter:
        """What stages take; what tuning or training measured, or a belief from FLOPs, until something has run here."""
        served = self.artifact.precision
        if served is not None and served.policy is not None and served.policy.costs is not None:
            return CostMeter(CostModel.from_plain(dict(served.policy.costs)))
        if self.policy is not None:
            return CostMeter(CostModel.from_plain(self.policy.costs.to_plain()))
        flops = [(cost.request, cost.candidate) for cost in self.flops]
        return CostMeter(CostModel.from_flops(flops, self.artifact.model.config.history_length))

    def encode_history(self, events: HistoryBatch, time_ms: int) -> EncodedHistory:
        """One user's events as tokens as of a time. Raises LogError where ids are asked of a log that cannot answer."""
        return self.artifact.encoder.encode_history(events, self.codes, np.array([time_ms], dtype=np.int64))

    def upsert_items(self, columns: Mapping[str, Sequence[object]]) -> UpsertResult:
        """Change or add catalogue rows, durably, and publish their encoded values.

        Raises RequestError, StorageFullError, LogError; then nothing has changed.
        """
        with self._upsert_lock:
            self._apply_appended()
            result = self.items.upsert(columns, record=lambda: self._append_upsert(columns))
            self.store.refresh(np.unique(result.rows))
            return result

    @property
    def last_upsert(self) -> int:
        """The number of the log's newest upsert that is applied; -1: none."""
        return self.replayed.last

    def apply_upserts(self) -> None:
        """Apply the upserts that others appended to the log; those that do not fit are counted, as at the start."""
        with self._upsert_lock:
            self._apply_appended()

    def _apply_appended(self) -> None:
        newer = replay_upserts(self.items, self._log, after=self.replayed.last)
        self.store.refresh(newer.rows)
        self.replayed = self.replayed + newer

    def _append_upsert(self, columns: Mapping[str, Sequence[object]]) -> None:
        number = self._log.append_upsert(pack_upsert(columns))
        self.replayed = self.replayed + Replay(1, 0, number)

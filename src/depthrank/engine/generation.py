"""One loaded model version with everything a request reads from it: model, encoder, catalogues, item-side values."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from depthrank.artifact import Artifact
from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.engine.item_store import ItemStore
from depthrank.engine.valuation import value_weights
from depthrank.events import EventLog
from depthrank.features import Counters, HistoryCodes


@dataclass
class Generation:
    """What stays the same for all levels of a request."""

    artifact: Artifact
    items: Catalogue
    users: Catalogue | None
    store: ItemStore
    codes: HistoryCodes
    counters: Counters
    weight_K: np.ndarray
    _upsert_lock: threading.Lock

    @classmethod
    def load(cls, artifact: Artifact, log: EventLog) -> Generation:
        """Encode the catalogue and rebuild the counters from the log."""
        items = artifact.items
        return cls(
            artifact=artifact,
            items=items,
            users=artifact.users,
            store=ItemStore(artifact.model, artifact.encoder, items),
            codes=HistoryCodes(log, items, artifact.spec.history_actions),
            counters=Counters.rebuild(artifact.spec, log, items, artifact.users),
            weight_K=value_weights(artifact.spec),
            _upsert_lock=threading.Lock(),
        )

    def upsert_items(self, columns: Mapping[str, Sequence[object]]) -> UpsertResult:
        """Change or add catalogue rows and publish their encoded values; raises RequestError."""
        with self._upsert_lock:
            result = self.items.upsert(columns)
            self.store.refresh(np.unique(result.rows))
            return result

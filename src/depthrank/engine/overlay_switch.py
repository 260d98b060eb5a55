"""Which generation serves, and how the next one takes its place: the one pointer that deltas move."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np

from depthrank.artifact import Cache, compacted
from depthrank.engine.beside_requests import BesideRequests
from depthrank.engine.generation import Generation
from depthrank.engine.item_store import ItemSnapshot
from depthrank.engine.overlay import DeltaReport, Prepared, prepare, publish
from depthrank.engine.overlay_ages import StateAges
from depthrank.errors import ArtifactError

logger = logging.getLogger("depthrank.engine")


class GenerationSwitch:
    """``generation`` is what serves now. Safe for several threads; deltas are applied one at a time."""

    def __init__(self, generation: Generation, ages: StateAges) -> None:
        self.generation, self._ages = generation, ages
        self._lock, self._one_delta = threading.Lock(), threading.Lock()
        self.beside = BesideRequests()

    def view(self) -> tuple[Generation, ItemSnapshot, int]:
        """What a request sees from its start to its end: the generation, its items, the newest upsert applied."""
        with self._lock:
            upserts = self.generation.last_upsert
            return self.generation, self.generation.store.snapshot(), upserts

    def apply_delta(self, path: str | Path) -> DeltaReport:
        """Prepare and publish the next delta. Raises ArtifactError; nothing has changed then."""
        with self._one_delta:
            return self.publish_delta(self.prepare_delta(path))

    def prepare_delta(self, path: str | Path) -> Prepared:
        """Make a delta ready beside the requests, which it hardly delays; changes nothing. Raises ArtifactError."""
        return prepare(self.generation, path, self.beside.pieces)

    def publish_delta(self, prepared: Prepared) -> DeltaReport:
        """Publish what was prepared. Raises ArtifactError where another was published meanwhile."""
        if prepared.over is not self.generation:
            was = prepared.over.artifact.served_id
            raise ArtifactError(f"{prepared.delta.folder} was prepared for {was}: prepare it again")
        report = publish(prepared, self._point, self._lock)
        logger.info("%s serves: %s", report.model, report)
        return report

    def compact(self, cache: Cache | None = None) -> bool:
        """Serve changed rows and their table from one new file, same answers; False where no row is changed."""
        with self._one_delta:
            before = self.generation
            artifact = compacted(before.artifact, cache, self.beside.rest)
            if artifact is before.artifact:
                return False
            nothing = np.zeros(0, np.int64)
            with before.upserted.lock, self._lock:
                before.store.publish(nothing, before.store.encode(nothing), artifact.model)
                self.generation = before.after(artifact, before.store, same_encoder=True)
            return True

    def _point(self, generation: Generation) -> None:
        self._ages.publish(generation.artifact.sequence)
        self.generation = generation

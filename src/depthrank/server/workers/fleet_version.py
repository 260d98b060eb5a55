"""One model version as the front holds it: its spec and its catalogue, not its weights. It ranks in the engines.

The front is the only one that appends to the log and that decides on an upsert; engines follow what the log has.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthrank.artifact import load_delta, read_manifest
from depthrank.artifact.cache import Held
from depthrank.artifact.fetch import fetch_artifact
from depthrank.catalogue import Catalogue, UpsertResult
from depthrank.engine.served import all_served_events
from depthrank.engine.shown_history import shown_history
from depthrank.engine.upserts import Replay, pack_upsert, replay_upserts
from depthrank.errors import ArtifactError, LogError
from depthrank.events import AppendResult, EraseResult, EventBatch, now_ms
from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Request, Spec

if TYPE_CHECKING:
    from depthrank.server.workers.fleet import Fleet


class FleetVersion:
    """A ServedRanker whose ``rank`` is the dispatcher's to carry out; ``key`` names it to the engines."""

    def __init__(self, fleet: Fleet, key: str, location: str, held: Held) -> None:
        """``held``: the copy that is served, whatever becomes of ``location``. Raises ArtifactError."""
        self.key, self.location, self.held = key, location, held
        manifest = read_manifest(held.path)
        self.model_id, self.path = manifest.model_id, held.path
        self.spec = Spec.from_plain(manifest.spec, folder=str(held.path))
        self.items = Catalogue.load(held.path / manifest.folder / "items")
        self._fleet, self._log = fleet, fleet.log
        self._upserts = threading.Lock()
        self.deltas: list[str] = []
        self._replayed: Replay = replay_upserts(self.items, self._log)
        self._economy: Economy | None = None
        self._info: dict[str, Any] = {}
        self._newest_event_ms = -1

    @classmethod
    def open(cls, fleet: Fleet, key: str, location: str | Path) -> FleetVersion:
        """The version at a path or URL, copied into the local cache. Raises ArtifactError, StorageFullError."""
        held = fetch_artifact(location)
        try:
            return cls(fleet, key, str(location), held)
        except BaseException:
            held.release()
            raise

    @property
    def generation(self) -> FleetVersion:
        """What is being served now: ``items``."""
        return self

    def learn(self, economy: Economy, info: dict[str, Any] | None = None) -> None:
        """What an engine says of the version. Raises ArtifactError where it serves another model."""
        self._economy = economy
        if info is not None:
            if info["model"] != self.model_id:
                raise ArtifactError(
                    f"an engine loaded {info['model']}, not {self.model_id}: {self.location} was replaced"
                )
            self._info = info

    def economy(self) -> Economy | None:
        return self._economy

    def rank(self, request: Request, **options: Any) -> Answer:
        """Rank outside of the queue, such as for a shadow; blocks. Not from the event loop's own thread."""
        return self._fleet.rank_now(self, request, **options)

    # ------------------------------------------------------------------ the log

    def append(self, events: EventBatch) -> AppendResult:
        """Append; what is ranked from now on has counted it."""
        result = self._log.append(events)
        self.observe(events)
        return result

    def observe(self, events: EventBatch) -> None:
        """Events have been appended to the log."""
        past = events.time_ms[events.time_ms <= now_ms()]
        self._newest_event_ms = max(self._newest_event_ms, int(past.max(initial=-1)))
        position = self.log_position()
        if position is not None:
            self._fleet.appended(position)

    def upsert_items(self, columns: Mapping[str, Sequence[Any]]) -> UpsertResult:
        """Change or add catalogue rows, durably; returns when every engine ranks by them."""
        with self._upserts:
            self._apply()
            numbers: list[int] = []
            result = self.items.upsert(
                columns, record=lambda: numbers.append(self._log.append_upsert(pack_upsert(columns)))
            )
            if numbers:
                self._replayed = self._replayed + Replay(1, 0, numbers[-1])
        self._fleet.upserted(self._replayed.last)
        return result

    def _record(self, columns: Mapping[str, Sequence[Any]]) -> None:
        number = self._log.append_upsert(pack_upsert(columns))
        self._replayed = self._replayed + Replay(1, 0, number)

    def apply_upserts(self) -> None:
        """Another version has upserted."""
        with self._upserts:
            self._apply()
        self._fleet.upserted(self._replayed.last)

    def _apply(self) -> None:
        self._replayed = self._replayed + replay_upserts(self.items, self._log, after=self._replayed.last)

    def apply_delta(self, path: str | Path) -> None:
        """Put the next delta into service in every engine; returns when all serve it. Raises ArtifactError, where an
        engine refuses it; all refuse alike."""
        with self._upserts:
            delta = load_delta(path)
            self.deltas.append(str(path))  # an engine that is started meanwhile begins with it
            try:
                self._fleet.apply_delta(self.key, str(path))
            except BaseException:
                self.deltas.pop()
                raise
            if columns := delta.entities.get("item"):
                self.items.upsert(columns)
                self._replayed = replay_upserts(self.items, self._log)  # what was upserted wins
            served = f"{self.model_id}+{delta.manifest.sequence}"
            self._info = {**self._info, "model": served, "deltas": delta.manifest.sequence}

    def compact_if_due(self) -> None:
        """Each engine does, by itself."""

    def erase(self, user: str) -> EraseResult:
        """Remove a user from the log's files, and from what every engine holds."""
        result = self._log.erase(str(user))
        self.forget(user)
        return result

    def forget(self, user: str) -> None:
        """Drop what engines hold of a user whom the log has erased."""
        self._fleet.forget(str(user))

    def history(self, user: str, limit: int) -> list[dict[str, Any]]:
        """The user's newest events, newest first."""
        return shown_history(self._log, str(user), max(now_ms(), self._newest_event_ms + 1) + 1, limit)

    def some_users(self, limit: int) -> list[str]:
        """Users that the log names."""
        return self._log.some_users(limit)

    def log_position(self) -> int | None:
        """The log's newest position; None where it cannot be read now."""
        try:
            return self._log.position()
        except LogError:
            return None

    def record_all_served(self, shown: Sequence[tuple[Request, Answer]]) -> AppendResult:
        """Log the shown items of answers as impressions, in one append."""
        return self.append(all_served_events(self.spec, shown, now_ms()))

    # ------------------------------------------------------------------ facts and life

    def info(self) -> dict[str, Any]:
        """What is being served, the catalogue as it is here."""
        return {
            **self._info,
            "items": self.items.size - 1,
            "catalogue_generation": self.items.generation,
            "upserts_refused": self._replayed.refused,
            "engines": self._fleet.num_lanes,
        }

    def measures(self) -> Mapping[str, float]:
        """Of all engines together."""
        return self._fleet.measures_of(self.key)

    def warm(self) -> None:
        """Let every engine rank once."""
        self._fleet.warm(self.key)

    def close(self) -> None:
        """Let the engines and the cache drop it."""
        self._fleet.unload(self.key)
        self.held.release()

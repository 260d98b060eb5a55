"""The loaded versions as one ranker: each request is answered by exactly one of them, all of them see every event.

Versions share one event log. What is appended, upserted or erased goes through stable, once, and the others are told;
a version that is still loading is told on its way in. Labels are one pointer: a switch under traffic is one assignment,
and the version it replaced is let go when its last request is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from depthrank.catalogue import UpsertResult
from depthrank.errors import CapacityError, DepthrankError
from depthrank.errors.types import ProblemsError
from depthrank.events import AppendResult, EraseResult, EventBatch
from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Request, Spec
from depthrank.server.models.canary import Canary, Quality
from depthrank.server.models.labels import Label, Labels
from depthrank.server.models.lease import Lease
from depthrank.server.models.settings import ModelSettings
from depthrank.server.models.version import Version
from depthrank.server.ranker_port import HasItems, ServedRanker, TakesDeltas

logger = logging.getLogger("depthrank.server")
Load = Callable[[Path], ServedRanker]
Run = Callable[[Callable[[], Any]], Any]
TakeOver = Callable[[ServedRanker, ServedRanker, Run], object]
NO_EVENTS = EventBatch(user=[], item=[], action=[], time_ms=np.zeros(0, np.int64))


class ModelConflictError(DepthrankError):
    """What was asked for does not fit what is loaded (HTTP 409)."""


class Models:
    """A ServedRanker over several versions. ``load`` makes a ranker of an artifact folder, over the same log; None: no
    version can be loaded. ``owns_first``: the first ranker is closed here too. ``take_over`` gives a ranker, before it
    serves, what another one has found out; what takes long in it is run by what it is given."""

    def __init__(
        self,
        first: ServedRanker,
        load: Load | None = None,
        settings: ModelSettings | None = None,
        *,
        path: str | Path | None = None,
        owns_first: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
        quality: Quality | None = None,
        take_over: TakeOver | None = None,
    ) -> None:
        self.settings = settings or ModelSettings()
        self.loading: str | None = None
        self.loads = self.switches = 0
        self._load, self._take_over, self._clock_s = load, take_over, clock_s
        self.first_path = None if path is None else str(path)
        version = Version(first, self.first_path, owns_first, clock_s)
        self._versions = {version.model: version}
        self._labels = Labels(version)
        self._lock = threading.Lock()  # of labels, versions and leases; held for a few instructions
        self._upserts = threading.RLock()
        self._erased: list[str] | None = None  # users erased while a version loads
        self.canary = Canary(self.settings.canary, clock_s, quality)

    # ------------------------------------------------------------------ which version

    @property
    def labels(self) -> Labels:
        """Who answers whom, now."""
        return self._labels

    @property
    def versions(self) -> list[Version]:
        """The loaded versions."""
        with self._lock:
            return list(self._versions.values())

    @property
    def folders(self) -> list[Path]:
        """Where artifacts may be loaded from: beside the first one, and the configured folders."""
        beside = [] if self.first_path is None else [Path(self.first_path).absolute().parent]
        return [*beside, *map(Path, self.settings.folders)]

    def choose(self, user: str) -> Lease:
        """The version that answers this user, held until the lease is released."""
        with self._lock:
            return self._hold(self._labels.of_user(user))

    def lease_of(self, label: Label) -> Lease | None:
        """The version with a label, held; None where no version has it."""
        with self._lock:
            version: Version | None = getattr(self._labels, label)
            return None if version is None else self._hold(version)

    def _hold(self, version: Version) -> Lease:
        version.leases += 1
        return Lease(version, self._give_back)

    def _give_back(self, version: Version) -> None:
        with self._lock:
            version.leases -= 1
            done = version.retired and version.leases == 0
        if done:
            _close_aside(version)

    # ------------------------------------------------------------------ a ranker

    @property
    def spec(self) -> Spec:
        """Stable's."""
        return self._stable.spec

    @property
    def model_id(self) -> str:
        """Stable's."""
        return self._stable.model_id

    def economy(self) -> Economy | None:
        """Stable's."""
        return self._stable.economy()

    @property
    def generation(self) -> HasItems:
        """Stable's."""
        return self._stable.generation

    @property
    def _stable(self) -> ServedRanker:
        """For what needs no lease: fields that outlive the version."""
        with self._holding_stable() as lease:
            return lease.ranker

    def _holding_stable(self) -> Lease:
        with self._lock:
            return self._hold(self._labels.stable)

    def rank(self, request: Request, **options: Any) -> Answer:
        """Rank by the version chosen for the user. A canary that fails is answered for by stable."""
        with self.choose(str(request.user)) as lease:
            if lease.version is self._labels.stable:
                return self.rank_with(lease, request, **options)
            try:
                return self.rank_with(lease, request, **options)
            except (ProblemsError, CapacityError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a new version does wrong, its users get an answer
                logger.warning("the canary %s failed, stable answers: %r", lease.version.model, error)
        with self._holding_stable() as lease:
            return self.rank_with(lease, request, **options)

    def rank_with(self, lease: Lease, request: Request, **options: Any) -> Answer:
        """Rank by a held version, and note how it did."""
        started = self._clock_s()
        try:
            answer = lease.ranker.rank(request, **options)
        except (ProblemsError, CapacityError):  # the client's doing, or the load's
            raise
        except Exception:
            self.noted(lease, self._clock_s() - started, failed=True)
            raise
        self.noted(lease, self._clock_s() - started, degraded=answer.degraded.is_)
        return answer

    def noted(self, lease: Lease, seconds: float, *, failed: bool = False, degraded: bool = False) -> None:
        """A held version answered, or failed: what canaries are judged by. ``rank_with`` does it by itself."""
        lease.version.recent.note(seconds, failed=failed, degraded=degraded)
        labels = self._labels
        if labels.canary is not None:
            verdict = self.canary.due(labels)
            if verdict is not None and verdict.rollback:
                self._roll_back_canary(labels.canary, "; ".join(verdict.reasons))

    def append(self, events: EventBatch) -> AppendResult:
        """Append once; returns when durable and when every version has counted it."""
        with self._holding_stable() as lease:
            result = lease.ranker.append(events)
            self._tell_others(lease, lambda ranker: ranker.observe(events))
        return result

    def record_all_served(self, shown: Sequence[tuple[Request, Answer]]) -> object:
        """Log what answers have shown."""
        with self._holding_stable() as lease:
            result = lease.ranker.record_all_served(shown)
            self._tell_others(lease, lambda ranker: ranker.observe(NO_EVENTS))
        return result

    def upsert_items(self, columns: Mapping[str, Sequence[Any]]) -> UpsertResult:
        """Upsert once, as stable's catalogue takes it; the other versions apply what fits them."""
        with self._upserts, self._holding_stable() as lease:
            result = lease.ranker.upsert_items(columns)
            self._tell_others(lease, lambda ranker: ranker.apply_upserts())
            return result

    def erase(self, user: str) -> EraseResult:
        """Erase a user from the log, and from what every version holds."""
        with self._holding_stable() as lease:
            result = lease.ranker.erase(user)
            with self._lock:
                if self._erased is not None:
                    self._erased.append(user)
            self._tell_others(lease, lambda ranker: ranker.forget(user))
        return result

    def apply_delta(self, path: Path, model: str | None = None) -> None:
        """Put the next delta of a loaded version (stable, unless named) into service; requests run on meanwhile.

        Raises ArtifactError where it is refused, ModelConflictError where the version cannot take any.
        """
        with self._lock:
            version = self._labels.stable if model is None else self._versions.get(model)
            if version is None:
                raise ModelConflictError(f"{model} is not loaded")
            lease = self._hold(version)
        with lease:
            ranker = lease.ranker
            if not isinstance(ranker, TakesDeltas):
                raise ModelConflictError(f"{version.model} is served by {type(ranker).__name__}, which takes no deltas")
            ranker.apply_delta(path)
            watched = self.settings.deltas
            if watched is None or path.resolve().parent != Path(watched).resolve():
                version.note = f"{path.name} ends with this process: put it into the watched folder (models.deltas)"
                logger.warning("model %s: %s", version.model, version.note)
            ranker.compact_if_due()

    def observe(self, events: EventBatch) -> None:
        """Somebody else appended to the log."""
        for version in self._held_now():
            with version as lease:
                lease.ranker.observe(events)

    def apply_upserts(self) -> None:
        """Somebody else appended upserts."""
        for version in self._held_now():
            with version as lease:
                lease.ranker.apply_upserts()

    def forget(self, user: str) -> None:
        """Drop what versions hold of an erased user."""
        for version in self._held_now():
            with version as lease:
                lease.ranker.forget(user)

    def history(self, user: str, limit: int) -> list[dict[str, Any]]:
        """From the log."""
        with self._holding_stable() as lease:
            return lease.ranker.history(user, limit)

    def some_users(self, limit: int) -> list[str]:
        """From the log."""
        with self._holding_stable() as lease:
            return lease.ranker.some_users(limit)

    def log_position(self) -> int | None:
        """Of the log."""
        return self._stable.log_position()

    def info(self) -> dict[str, Any]:
        """Stable's."""
        return self._stable.info()

    def measures(self) -> Mapping[str, float]:
        """Stable's."""
        return self._stable.measures()

    def warm(self) -> object:
        """Stable's first requests."""
        return self._stable.warm()

    def close(self) -> None:
        """Let go of every version that is owned."""
        with self._lock:
            versions, self._versions = list(self._versions.values()), {}
        for version in versions:
            version.close()

    def _held_now(self) -> list[Lease]:
        with self._lock:
            return [self._hold(version) for version in self._versions.values()]

    def _tell_others(self, told: Lease, tell: Callable[[ServedRanker], None]) -> None:
        """Tell every version but ``told``. One that cannot follow must not undo what is durable: it is noted."""
        for held in self._held_now():
            with held as lease:
                if lease.version is told.version:
                    continue
                try:
                    tell(lease.ranker)
                except Exception:
                    lease.version.note = "it could not follow the log; see the server's log"
                    logger.exception("model %s could not follow the log", lease.version.model)

    # ------------------------------------------------------------------ load, label, unload

    def load(
        self,
        path: Path,
        label: Label | None = None,
        share: float | None = None,
        run: Run = lambda call: call(),
    ) -> str:
        """Load and warm a version, then label it; returns its model id. Takes as long as that takes. ``run`` may
        interrupt what takes long (``GiveWay``); what needs locks that requests need too is not run by it.

        Raises ArtifactError, LogError; ModelConflictError while another load is under way or where the model does not
        fit the log that is served.
        """
        if self._load is None:
            raise ModelConflictError("this server was given no way to load models; start it with depthrank serve")
        with self._lock:
            if self.loading is not None:
                raise ModelConflictError(f"{self.loading} is being loaded; try again when it is ready")
            self.loading, self._erased = path.name, []
        try:
            load = self._load
            ranker = run(lambda: load(path))
            try:
                self._check_fits(ranker)
                run(ranker.warm)
                if self._take_over is not None:
                    with self._holding_stable() as lease:
                        self._take_over(ranker, lease.ranker, run)
                version = self._enter(Version(ranker, str(path), True, self._clock_s))
            except BaseException:
                ranker.close()
                raise
        finally:
            with self._lock:
                self.loading, self._erased = None, None
        self.loads += 1
        if label is not None:
            self.label(version.model, label, share)
        return version.model

    def _check_fits(self, ranker: ServedRanker) -> None:
        mine, its = (getattr(r.spec.dataset.main, "time", None) == "order" for r in (self, ranker))
        if mine != its:
            raise ModelConflictError("the model was trained on another kind of time than this log holds")
        model = str(ranker.info()["model"])
        with self._lock:
            if model in self._versions:
                raise ModelConflictError(f"{model} is loaded already; label it, or unload it first")

    def _enter(self, version: Version) -> Version:
        """The version takes part: from here on it is told everything; what came while it loaded, it catches up."""
        with self._upserts:
            with self._lock:
                self._versions[version.model] = version
                erased = list(self._erased or ())
            version.ranker.apply_upserts()
        version.ranker.observe(NO_EVENTS)
        for user in erased:
            version.ranker.forget(user)
        return version

    def label(self, model: str, label: Label, share: float | None = None) -> None:
        """Give a loaded version a label. Raises ModelConflictError for one that is not loaded, or that is stable."""
        with self._lock:
            version, labels = self._loaded(model), self._labels
            if version is labels.stable:
                if label == "stable":
                    return
                raise ModelConflictError(f"{model} is stable; label another version stable first")
            labels = _without(labels, version)
            if label == "stable":
                previous, dropped = (
                    (labels.stable, labels.previous) if self.settings.keep_previous else (None, labels.stable)
                )
                self._labels = replace(labels, stable=version, previous=previous)
                self.switches += 1
            elif label == "canary":
                dropped = None
                share = 0.1 if share is None else share
                self._labels = replace(labels, canary=version, canary_share=share, since_s=self._clock_s())
            else:
                dropped = None
                self._labels = replace(labels, shadow=version, shadow_share=0.1 if share is None else share)
            version.note = ""
            self._retire_locked(dropped)
        self._close_idle(dropped)
        logger.info("model %s is %s now", model, label)

    def promote(self) -> str:
        """The canary becomes stable; returns its model id."""
        canary = self._labels.canary
        if canary is None:
            raise ModelConflictError("there is no canary to promote")
        self.label(canary.model, "stable")
        return canary.model

    def roll_back(self, why: str = "asked for") -> str:
        """Take the canary's label; where there is none, stable and its predecessor change places. Returns the model id
        that lost its label."""
        canary = self._labels.canary
        if canary is not None:
            self._roll_back_canary(canary, why)
            return canary.model
        with self._lock:
            labels = self._labels
            if labels.previous is None:
                raise ModelConflictError("there is neither a canary nor a predecessor of stable to roll back to")
            gone = labels.stable
            self._labels = replace(labels, stable=labels.previous, previous=gone)
            gone.note = f"rolled back: {why}"
            self.switches += 1
        logger.warning("model %s was rolled back (%s); %s is stable", gone.model, why, self._labels.stable.model)
        return gone.model

    def _roll_back_canary(self, canary: Version, why: str) -> None:
        with self._lock:
            if self._labels.canary is not canary:
                return
            self._labels = replace(self._labels, canary=None, canary_share=0.0)
            canary.note = f"rolled back: {why}"
            self.canary.rollbacks += 1
        logger.warning("the canary %s was rolled back: %s", canary.model, why)

    def unload(self, model: str) -> None:
        """Let a version go; its requests under way are finished. Raises ModelConflictError for stable."""
        with self._lock:
            version = self._loaded(model)
            if version is self._labels.stable:
                raise ModelConflictError(f"{model} is stable; label another version stable first")
            self._labels = _without(self._labels, version)
            self._retire_locked(version)
        self._close_idle(version)

    def _loaded(self, model: str) -> Version:
        version = self._versions.get(model)
        if version is None:
            raise ModelConflictError(f"{model[:200]!r} is not loaded; loaded: {', '.join(self._versions)}")
        return version

    def _retire_locked(self, version: Version | None) -> None:
        if version is not None:
            self._versions.pop(version.model, None)
            version.retired = True

    def _close_idle(self, version: Version | None) -> None:
        if version is None:
            return
        with self._lock:
            idle = version.retired and version.leases == 0 and not version.closed.is_set()
        if idle:
            _close_aside(version)


def _without(labels: Labels, version: Version) -> Labels:
    """The labels when a version that is not stable loses its own."""
    gone = {name: None for name in ("previous", "canary", "shadow") if getattr(labels, name) is version}
    return replace(labels, **cast(dict[str, Any], gone))


def _close_aside(version: Version) -> None:
    """Close in a thread of its own: the one that gave the last lease back has requests to answer."""
    threading.Thread(target=version.close, name=f"unload {version.model[:40]}", daemon=True).start()

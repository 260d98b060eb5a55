"""The same server with its engines as Ray actors: one front, which owns the log and all that is written, and N engines
that rank, a user always on the same one.

Each engine loads the artifact itself (from the local cache of its machine, or a URL) and reads the event log: a folder
that its machine has too, or Redis. Before it ranks it catches up with what the front had acknowledged: events, upserts
and deltas. An engine that is dead or late is replaced for that request by the front's own ranker, and restarted by Ray.

A delta is prepared by all, and published when nobody refused it: by the front, then by the engines. It must lie at the
same path on every machine.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthrank.cluster.ray_shards import import_ray
from depthrank.engine import Ranker
from depthrank.engine.overlay import DeltaReport, Prepared
from depthrank.errors import ArtifactError, LogError
from depthrank.events import open_log
from depthrank.schema import Answer, Request

logger = logging.getLogger("depthrank.cluster")
START_TIMEOUT_S = 300.0


class RayEngine:
    """What runs in an actor."""

    def __init__(self, artifact: str, log: str, options: dict[str, Any]) -> None:
        self._log = open_log(log, read_only=True)
        self._ranker = Ranker.load(artifact, self._log, **options)
        self._position = -1
        self._prepared: Prepared | None = None
        self._deltas = threading.Lock()

    def warm(self) -> str:
        """Ready to rank; the model that serves."""
        self._ranker.warm()
        return self._ranker.model_id

    def rank(
        self, request: Request, options: dict[str, Any], position: int, upsert: int, deltas: Sequence[str] = ()
    ) -> Answer:
        """Rank, once everything up to the front's position and upsert is counted, and its deltas serve."""
        self.catch_up(deltas)
        if position > self._position:
            self._ranker.generation.counters.catch_up(self._log)
            self._position = position
        if upsert > self._ranker.generation.last_upsert:
            self._ranker.apply_upserts()
        return self._ranker.rank(request, **options)

    def prepare_delta(self, path: str) -> None:
        """Get a delta ready beside ranking; raises ArtifactError where it is refused."""
        with self._deltas:
            self._prepared = self._ranker.prepare_delta(path)

    def catch_up(self, deltas: Sequence[str]) -> str:
        """Serve these deltas of the artifact, all there are; the model that serves then."""
        if len(deltas) > self._ranker.artifact.sequence:
            with self._deltas:
                prepared, self._prepared = self._prepared, None
                for path in deltas[self._ranker.artifact.sequence :]:
                    is_ready = prepared is not None and prepared.over is self._ranker.generation
                    if is_ready and prepared is not None and str(prepared.delta.folder) == path:
                        self._ranker.publish_delta(prepared)
                    else:  # restarted since, or it did not hear of the delta
                        self._ranker.apply_delta(path)
        return self._ranker.model_id

    def compact_if_due(self) -> None:
        """Write changed rows into their tables where they have become many."""
        self._ranker.compact_if_due()

    def forget(self, user: str) -> None:
        """Drop what is held of an erased user."""
        self._ranker.forget(user)


class RankerOnRay:
    """A ranker for ``depthrank.server``: ranking is done by the engines, everything else by ``front``.

    ``timeout_s``: how long a request waits for its engine before the front ranks it. ``replaced`` counts those.
    """

    def __init__(
        self, front: Ranker, artifact: str | Path, engines: int, *, timeout_s: float = 1.0, **options: Any
    ) -> None:
        ray = import_ray()
        assert engines >= 1
        # Two calls at once: a delta is prepared beside a request.
        remote = ray.remote(RayEngine).options(num_cpus=1, max_restarts=-1, max_task_retries=0, max_concurrency=2)
        load = {"copy": True, **options}
        self.front, self.timeout_s, self.replaced = front, timeout_s, 0
        self.deltas: list[str] = []
        self.engines = [remote.remote(str(artifact), front.log.url, load) for _ in range(engines)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.front, name)

    def warm(self) -> None:
        """Every engine and the front are ready, and serve the same model."""
        ready = import_ray().get([engine.warm.remote() for engine in self.engines], timeout=START_TIMEOUT_S)
        self.front.warm()
        assert set(ready) == {self.front.model_id}, f"engines serve {ready}, the front {self.front.model_id}"

    def rank(self, request: Request, **options: Any) -> Answer:
        """The answer of the user's engine; of the front where that one does not answer, which the answer says."""
        ray = import_ray()
        passed = {name: value for name, value in options.items() if name != "arrived_s"}  # another machine's clock
        number = zlib.crc32(str(request.user).encode(errors="surrogatepass")) % len(self.engines)
        try:
            position, upsert = self.front.log.position(), self.front.generation.last_upsert
            waiting = self.engines[number].rank.remote(request, passed, position, upsert, self.deltas)
            answer: Answer = ray.get(waiting, timeout=self.timeout_s)
        except (ray.exceptions.RayActorError, TimeoutError, LogError) as error:
            self.replaced += 1
            answer = self.front.rank(request, **options)
            answer.degraded.reasons.append(
                f"engine {number} does not answer ({type(error).__name__}): the front ranked"
            )
            answer.degraded.is_ = True
        return answer

    def apply_delta(self, path: str | Path) -> DeltaReport:
        """Put the next delta into service here and in every engine. Raises ArtifactError where anybody refuses it;
        nothing has changed then. An engine that is dead catches up when it is asked again."""
        if not self.deltas and self.front.artifact.sequence:
            raise ArtifactError(
                f"the front began with {self.front.artifact.sequence} deltas and the engines without: "
                "load both without deltas, and apply them here"
            )
        path = str(Path(path).absolute())
        preparing = [engine.prepare_delta.remote(path) for engine in self.engines]
        prepared = self.front.prepare_delta(path)
        for number, waiting in enumerate(preparing):
            self._told(number, waiting, path)
        report = self.front.publish_delta(prepared)
        self.deltas = [*self.deltas, path]
        for number, engine in enumerate(self.engines):
            self._told(number, engine.catch_up.remote(self.deltas), path)
        return report

    def compact_if_due(self) -> bool:
        """Here, and beside it in every engine."""
        for engine in self.engines:
            engine.compact_if_due.remote()
        return self.front.compact_if_due()

    def _told(self, number: int, waiting: Any, path: str) -> None:
        """Wait for an engine; raises ArtifactError where it refuses the delta."""
        ray = import_ray()
        try:
            ray.get(waiting, timeout=START_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            raise ArtifactError(f"engine {number} refuses {path}: {error.cause}") from None
        except ray.exceptions.RayActorError as error:
            logger.warning("engine %d takes %s when it is back: %s", number, path, error)

    def erase(self, user: str) -> Any:
        """Erase a user here and in every engine."""
        result = self.front.erase(user)
        import_ray().get([engine.forget.remote(user) for engine in self.engines], timeout=self.timeout_s)
        return result

    def close(self) -> None:
        """End the engines; the front stays the caller's."""
        for engine in self.engines:
            import_ray().kill(engine, no_restart=True)

"""The same server with its engines as Ray actors: one front, which owns the log and all that is written, and N engines
that rank, a user always on the same one.

Each engine loads the artifact itself (from the local cache of its machine, or a URL) and reads the event log: a folder
that its machine has too, or Redis. Before it ranks it catches up with what the front had acknowledged. An engine that
is dead or late is replaced for that request by the front's own ranker, and restarted by Ray.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from depthrank.cluster.ray_shards import import_ray
from depthrank.engine import Ranker
from depthrank.errors import LogError
from depthrank.events import open_log
from depthrank.schema import Answer, Request

START_TIMEOUT_S = 300.0


class RayEngine:
    """What runs in an actor."""

    def __init__(self, artifact: str, log: str, options: dict[str, Any]) -> None:
        self._log = open_log(log, read_only=True)
        self._ranker = Ranker.load(artifact, self._log, **options)
        self._position = -1

    def warm(self) -> str:
        """Ready to rank; the model that serves."""
        self._ranker.warm()
        return self._ranker.model_id

    def rank(self, request: Request, options: dict[str, Any], position: int, upsert: int) -> Answer:
        """Rank, once everything up to the front's position and upsert is counted."""
        if position > self._position:
            self._ranker.generation.counters.catch_up(self._log)
            self._position = position
        if upsert > self._ranker.generation.last_upsert:
            self._ranker.apply_upserts()
        return self._ranker.rank(request, **options)

    def apply_delta(self, path: str) -> str:
        """Put a delta into service; the model that serves then."""
        return self._ranker.apply_delta(path).model

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
        remote = ray.remote(RayEngine).options(num_cpus=1, max_restarts=-1, max_task_retries=0)
        load = {"copy": True, **options}
        self.front, self.timeout_s, self.replaced = front, timeout_s, 0
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
            waiting = self.engines[number].rank.remote(request, passed, position, upsert)
            answer: Answer = ray.get(waiting, timeout=self.timeout_s)
        except (ray.exceptions.RayActorError, TimeoutError, LogError) as error:
            self.replaced += 1
            answer = self.front.rank(request, **options)
            answer.degraded.reasons.append(
                f"engine {number} does not answer ({type(error).__name__}): the front ranked"
            )
            answer.degraded.is_ = True
        return answer

    def erase(self, user: str) -> Any:
        """Erase a user here and in every engine."""
        result = self.front.erase(user)
        import_ray().get([engine.forget.remote(user) for engine in self.engines], timeout=self.timeout_s)
        return result

    def close(self) -> None:
        """End the engines; the front stays the caller's."""
        for engine in self.engines:
            import_ray().kill(engine, no_restart=True)

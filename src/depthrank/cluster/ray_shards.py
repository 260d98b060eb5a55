"""Shards as Ray actors: a process each, restarted by Ray where it dies, on whatever machine has room.

Needs the extra ``depthrank[cluster]``; nothing of Ray is imported before a function here is called.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.artifact import Artifact
from depthrank.artifact.delta_apply import with_tables
from depthrank.artifact.weights import table_path
from depthrank.cluster.sharded_rows import ShardedRows
from depthrank.cluster.shards import ShardMissing, ShardRows
from depthrank.errors import DepthrankError
from depthrank.tables import RowFile

START_TIMEOUT_S = 120.0


class RayShard:
    """One shard in an actor. ``path`` must lead to the same row file on every machine."""

    def __init__(self, path: str | Path, shard: int, num_shards: int, **options: Any) -> None:
        ray = import_ray()
        settings = {"num_cpus": 0.1, "max_restarts": -1, "max_task_retries": 0, **options}
        self.actor = ray.remote(ShardRows).options(**settings).remote(str(path), shard, num_shards)

    def ask(self, place_n: NDArray[np.int64]) -> _Answer:
        """Send the lookup."""
        return _Answer(self.actor.rows.remote(place_n))

    def num_bytes(self) -> int:
        """Bytes the shard holds; waits until it has started."""
        held: int = import_ray().get(self.actor.num_bytes.remote(), timeout=START_TIMEOUT_S)
        return held

    def stop(self) -> None:
        """End the actor for good."""
        import_ray().kill(self.actor, no_restart=True)


class _Answer:
    """A lookup that an actor works on."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def packed(self, deadline_s: float) -> NDArray[np.uint8]:
        """The rows; raises ShardMissing."""
        ray = import_ray()
        try:
            found: NDArray[np.uint8] = ray.get(self._reference, timeout=max(0.0, deadline_s - time.monotonic()))
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise ShardMissing(f"{type(error).__name__}") from None
        return found


def start_shards(path: str | Path, num_shards: int, *, name: str = "table", **options: Any) -> ShardedRows:
    """The table of a row file on ``num_shards`` actors, all of them ready. ``options`` of ShardedRows."""
    header = RowFile.open(path).header
    shards = [RayShard(path, shard, num_shards) for shard in range(num_shards)]
    for shard in shards:
        shard.num_bytes()
    return ShardedRows(shards, header.form, header.width, header.num_rows, name=name, **options)


def with_shards(artifact: Artifact, num_shards: dict[str, int], **options: Any) -> Artifact:
    """The artifact with some of its tables on actors; ``num_shards`` by table (``request_features``)."""
    folder = artifact.path / artifact.manifest.folder
    sources = {
        name: start_shards(table_path(folder, name.removesuffix("_features")), number, name=name, **options)
        for name, number in num_shards.items()
    }
    return replace(artifact, model=with_tables(artifact.model, sources))


def import_ray() -> Any:
    """Ray, or what to install."""
    try:
        import ray
    except ImportError:
        raise DepthrankError("shards on Ray need the package ray: pip install 'depthrank[cluster]'") from None
    return ray

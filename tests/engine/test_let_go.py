"""A ranker that nobody holds is gone at once: a server that switches versions does not wait for the collector."""

from __future__ import annotations

import gc
import weakref

from asking import ask

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.events import open_log


def test_nothing_of_a_ranker_outlives_it(world):
    with open_log(world.log_url, read_only=True) as log:
        ranker = Ranker(load_artifact(world.artifact), log)
        ranker.rank(ask())
        generation = ranker.generation
        parts = (generation, generation.items, generation.users, generation.artifact.model, generation.artifact.encoder)
        left = [weakref.ref(part) for part in parts if part is not None]
        assert all(ref() is not None for ref in left), "positive control"
        del generation, parts
        gc.collect()
        gc.disable()
        try:
            del ranker
            assert [type(ref()).__name__ for ref in left if ref() is not None] == []
        finally:
            gc.enable()

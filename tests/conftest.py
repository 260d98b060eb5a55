"""A ranker trained on the planted world, for every test that needs a real artifact."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import settings

from planted_world import World, write_world

settings.register_profile("untimed", deadline=None)  # how long an example takes says nothing on a shared machine
settings.load_profile("untimed")
logging.getLogger("torch.__trace").propagate = False  # or pytest keeps every step of an export


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The planted world, trained once a test session. Copy it before changing it."""
    from depthrank.training import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    spec = write_world(folder)
    log_url = f"lmdb:{folder / 'events'}"
    train(spec, log=log_url, out=folder / "artifact", progress=False)
    return World(folder, spec, folder / "artifact", log_url)

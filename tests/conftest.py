"""A ranker trained on the planted world, for every test that needs a real artifact."""

from __future__ import annotations

import logging
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def _nobody_chooses_products() -> Iterator[None]:
    """A command that a test ran in this process chose for its process; the next test's threads are another program."""
    from depthrank.precision import product_mode

    product_mode._owner = None
    yield
    product_mode._owner = None

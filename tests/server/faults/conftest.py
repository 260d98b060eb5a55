"""The nursery that the fault tests share, and a private copy of the world's artifact and log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.stop()


@pytest.fixture
def place(world: Any, tmp_path: Path) -> Path:
    """A folder with ``artifact`` and ``events``."""
    shutil.copytree(world.artifact, tmp_path / "artifact")
    shutil.copytree(world.folder / "events", tmp_path / "events")
    return tmp_path

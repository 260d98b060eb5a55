"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_dataset import Make, maker


@pytest.fixture
def small(tmp_path: Path) -> Make:
    """See ``small_dataset.maker``."""
    return maker(tmp_path)

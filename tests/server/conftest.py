"""A server that the tests of one file share; tests that need other settings start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_server import Live, live_server


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with live_server() as running:
        yield running

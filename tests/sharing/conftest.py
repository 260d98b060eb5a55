"""One thread, and no trace log: pytest would format every step of every export."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def quiet_exports() -> None:
    torch.set_num_threads(1)

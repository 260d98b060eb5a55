"""One thread, no clock, and no trace log: pytest would format every step of every export."""

from __future__ import annotations

import pytest
import torch

from depthrank.sharing import measured

measured.SURE_GAIN = 0.0  # whether a call runs the shared form must not depend on how busy the machine is


@pytest.fixture(autouse=True)
def quiet_exports() -> None:
    torch.set_num_threads(1)

"""FLOPs are those of torch's counter, and of one thread."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from depthrank.model.flop_count import FlopCount


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_products_of_every_kind_are_counted_as_torch_counts_them(mode):
    layers = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 1))
    x_BLD = torch.randn(3, 5, 8)
    with mode():
        with FlopCounterMode(display=False) as expected:
            layers(x_BLD)
        with FlopCount() as counter:
            layers(x_BLD)
    assert counter.total == expected.get_total_flops() > 0


def test_what_other_threads_run_is_neither_counted_nor_disturbed():
    layer, x_ND = nn.Linear(8, 16), torch.randn(3, 8)
    entered = len(nn.modules.module._global_forward_hooks)
    with FlopCount() as counter:
        other = threading.Thread(target=layer, args=(x_ND,))
        other.start()
        other.join()
        assert counter.total == 0
        assert len(nn.modules.module._global_forward_hooks) == entered, "every thread would run them"
        layer(x_ND)
    assert counter.total == 2 * 3 * 8 * 16

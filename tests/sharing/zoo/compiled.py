"""Zoo models shared and bound once per process, for all tests that read them."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import nn

from depthrank.sharing import share

from . import SMALL, Sizes, make

NUM_ITEMS = 50


def original(name: str, sizes: Sizes = SMALL, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The one module of this name, sizes and dtype."""
    return _original(name, sizes, dtype)


def shared(name: str, sizes: Sizes = SMALL, dtype: torch.dtype = torch.float32) -> Any:
    """``share`` of the original, with an example in its dtype."""
    return _shared(name, sizes, dtype)


@cache  # on all three arguments: with defaults the same model would be built once a way of calling
def _original(name: str, sizes: Sizes, dtype: torch.dtype) -> nn.Module:
    return make(name, sizes).build().to(dtype)


@cache
def _shared(name: str, sizes: Sizes, dtype: torch.dtype) -> Any:
    model = make(name, sizes)
    example = model.example(double=dtype == torch.float64)
    logging.disable(logging.DEBUG)  # pytest would keep every step of an export
    try:
        return share(original(name, sizes, dtype), example, request_inputs=model.request_inputs)
    finally:
        logging.disable(logging.NOTSET)


@cache
def bound(name: str, sizes: Sizes = SMALL) -> Any:
    """The shared model with a catalogue of ``NUM_ITEMS`` items: row k is the k-th candidate of ``catalogue``."""
    model = make(name, sizes)
    items = catalogue(name, sizes)
    return shared(name, sizes).bind({item: items[item] for item in model.item_names})


@cache
def catalogue(name: str, sizes: Sizes = SMALL) -> dict[str, torch.Tensor]:
    return make(name, sizes).draw(seed=3, num_requests=1, num_candidates=NUM_ITEMS).candidate

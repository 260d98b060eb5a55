"""Kernels as torch operators: what exported and traced graphs call, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

_library: Any = torch.library
_operators = _library.Library("depthrank", "FRAGMENT")


def operator(schema: str, run: Callable[..., Any], shape: Callable[..., Any], flops: Callable[..., int]) -> Any:
    """Register ``schema`` and return the operator. ``shape``: an empty result for fake inputs."""
    name = schema.partition("(")[0]
    _operators.define(schema)
    _operators.impl(name, run, "CompositeExplicitAutograd")
    _library.register_fake(f"depthrank::{name}", shape, lib=_operators)
    made = getattr(torch.ops.depthrank, name)
    register_flop_formula(made)(flops)
    return made.default


def attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Of the shapes: scores, and the weighted values."""
    batch, heads, queries, width = q
    return int(2 * batch * heads * queries * k[2] * (width + v[3]))

"""The model zoo of the sharing compiler: torch-rechub's models, and awkward ones written as people write them.

``make(name, sizes)`` gives one :class:`ZooModel`; ``NAMES`` lists all. A model knows how to build itself, how to draw
inputs for R requests and N candidates, and the FLOPs that sharing must leave (``docs/sharing-flops.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import closed_forms_own, own_cross, own_gates, own_layout, own_sequence, rechub_multitask, rechub_ranking
from .entry import FULL, SMALL, Flops, Inputs, Sizes, ZooModel

RECHUB: dict[str, Callable[[Sizes], ZooModel]] = {**rechub_ranking.MODELS, **rechub_multitask.MODELS}
OWN: dict[str, Callable[[Sizes], ZooModel]] = {
    **own_sequence.MODELS,
    **own_cross.MODELS,
    **own_gates.MODELS,
    **own_layout.MODELS,
}
NAMES: tuple[str, ...] = (*RECHUB, *OWN)


def make(name: str, sizes: Sizes = FULL) -> ZooModel:
    """The zoo's model of this name at these sizes; raises ``KeyError`` for an unknown one."""
    if name in RECHUB:
        return RECHUB[name](sizes)
    model = OWN[name](sizes)
    return replace(model, work=closed_forms_own.form(name, sizes)) if name in closed_forms_own.WORK else model


__all__ = ["FULL", "NAMES", "OWN", "RECHUB", "SMALL", "Flops", "Inputs", "Sizes", "ZooModel", "make"]

"""Is the shared form really not slower than the original? Where the estimate promises little, both are timed.

An estimate knows products, bytes and launches, but not how well a kernel runs on small or strided operands. So a model
that is to gain little is run a few times both ways, for one request and the candidates that costs are weighed at; the
fastest of interleaved runs counts, since load only ever adds. What is decided here is which of two equal forms a call
runs, never a score.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from depthrank.sharing.inputs import ModuleInputs, Sides, join_pairs
from depthrank.sharing.normal_form.reader import FAULTS
from depthrank.sharing.verify import draw_inputs

SURE_GAIN = 1.6  # an estimated gain that needs no clock
SLOWER = 1.1  # the shared form is left from here on
MOST_SECONDS = 2.0  # of timing
RUNS = 7


@dataclass(frozen=True)
class Timing:
    """The fastest run of each form, in seconds."""

    original: float
    shared: float

    @property
    def pays(self) -> bool:
        return self.shared < SLOWER * self.original


def time_both(shared: Any, module: nn.Module, inputs: ModuleInputs, sides: Sides, candidates: int) -> Timing | None:
    """Both forms on one request; None where the original cannot run on such rows, or neither run fits the time."""
    draw = draw_inputs(inputs, sides, 1, candidates, seed=13)

    def original() -> None:
        pairs = join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate)
        args, kwargs = inputs.arguments(pairs)
        module(*args, **kwargs)

    def ours() -> None:
        shared.score(shared.encode(draw.request), draw.candidate)

    fastest = {original: float("inf"), ours: float("inf")}
    began = time.perf_counter()
    try:
        with torch.no_grad():
            for turn in range(RUNS + 1):
                for run in (original, ours):
                    seconds = _seconds(run)
                    fastest[run] = min(fastest[run], seconds) if turn else fastest[run]
                if time.perf_counter() - began > MOST_SECONDS:
                    break
    except FAULTS:
        return None  # ids that only some rows may have, say: the draws of the checks said so already
    timing = Timing(fastest[original], fastest[ours])
    return timing if timing.shared < float("inf") else None


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

"""What sharing leaves of each model's work is the closed form of the rewrites that apply (docs/sharing-flops.md)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
import zoo
from zoo.oracle import counted_flops

from depthrank.sharing import share

WITH_FORM = [name for name in zoo.NAMES if zoo.make(name, zoo.SMALL).work is not None]


@pytest.fixture(autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    logging.getLogger("torch.__trace").propagate = False  # pytest would format every step of an export
    with torch.no_grad():
        yield


@cache
def shared(name: str, sizes: zoo.Sizes) -> Any:
    model = zoo.make(name, sizes)
    return share(model.build(), model.example(), request_inputs=model.request_inputs)


@cache
def bound(name: str, sizes: zoo.Sizes) -> Any:
    model = zoo.make(name, sizes)
    items = model.draw(seed=3, num_requests=1, num_candidates=50).candidate
    return shared(name, sizes).bind({item: items[item] for item in model.item_names})


def unbound_flops(name: str, sizes: zoo.Sizes, num_requests: int, num_candidates: int) -> int:
    inputs = zoo.make(name, sizes).draw(4, num_requests, num_candidates)
    rows = None if num_requests == 1 else inputs.request_of_candidate
    ours = shared(name, sizes)
    return counted_flops(lambda: ours.score(ours.encode(inputs.request), inputs.candidate, rows))


def bound_flops(name: str, sizes: zoo.Sizes, num_requests: int, num_candidates: int) -> int:
    model = zoo.make(name, sizes)
    inputs = model.draw(4, num_requests, num_candidates)
    rows = None if num_requests == 1 else inputs.request_of_candidate
    others = {other: inputs.candidate[other] for other in model.per_request_context}
    item_rows = torch.arange(num_candidates)
    return counted_flops(lambda: bound(name, sizes)(inputs.request, item_rows, others, rows))


@pytest.mark.parametrize("name", WITH_FORM)
def test_the_work_left_is_the_closed_form(name: str) -> None:
    form = zoo.make(name, zoo.FULL).work
    assert form is not None
    assert unbound_flops(name, zoo.FULL, 1, 40) == form.after.total(40)


@pytest.mark.parametrize("name", WITH_FORM)
def test_the_work_left_with_a_bound_catalogue_is_the_closed_form(name: str) -> None:
    form = zoo.make(name, zoo.FULL).work
    assert form is not None
    assert bound_flops(name, zoo.FULL, 1, 40) == form.bound.total(40)


@pytest.mark.parametrize("name", WITH_FORM)
def test_the_report_states_the_work_that_is_run(name: str) -> None:
    """The report predicts; the counter watches the kernels."""
    report = shared(name, zoo.FULL).report
    assert report.flops(40, 1)["after"] == unbound_flops(name, zoo.FULL, 1, 40)
    assert report.flops(40, 1, bound=True)["after"] == bound_flops(name, zoo.FULL, 1, 40)

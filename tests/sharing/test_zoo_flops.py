"""What sharing leaves of each model's work is the closed form of the rewrites that apply (docs/sharing-flops.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import zoo
from zoo.compiled import bound, shared
from zoo.oracle import counted_flops

NUM_CANDIDATES = 40
WITH_FORM = [name for name in zoo.NAMES if zoo.make(name, zoo.SMALL).work is not None]
OPEN = {
    "DCNv2Full": "bound, the second cross layer runs its linear over sums term by term",
}
REPORT_OPEN = {"ContextualHistoryGate": "bound, the report counts more than the kernels run"}
OPEN_WHEN_FULL = OPEN | {"PNN": "more multiply-and-sums run as products than there are (user, item) pairs"}


def models(still_open: dict[str, str]) -> list[Any]:
    """All models with a form; those that the compiler does not bring there yet must fail, or leave the list."""
    return [
        pytest.param(name, marks=pytest.mark.xfail(reason=still_open[name], strict=True))
        if name in still_open
        else name
        for name in WITH_FORM
    ]


@pytest.fixture(autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def unbound_call(name: str, sizes: zoo.Sizes, num_candidates: int) -> Callable[[], Any]:
    """The shared form itself, also where the original would be used because sharing does not pay."""
    inputs, ours = zoo.make(name, sizes).draw(4, 1, num_candidates), shared(name, sizes)
    return lambda: ours.score(ours.encode(inputs.request), inputs.candidate)


def bound_call(name: str, sizes: zoo.Sizes, num_candidates: int) -> Callable[[], Any]:
    model = zoo.make(name, sizes)
    inputs, item_rows = model.draw(4, 1, num_candidates), torch.arange(num_candidates)
    others = {other: inputs.candidate[other] for other in model.per_request_context}
    return lambda: bound(name, sizes)(inputs.request, item_rows, others)


def work_of(call: Callable[[str, zoo.Sizes, int], Callable[[], Any]], name: str, sizes: zoo.Sizes) -> zoo.Flops:
    """Request and candidate FLOPs of a call, told apart by counting at N and 2 N; the first call warms caches."""
    call(name, sizes, NUM_CANDIDATES)()
    once = counted_flops(call(name, sizes, NUM_CANDIDATES // 2))
    twice = counted_flops(call(name, sizes, NUM_CANDIDATES))
    per_candidate = (twice - once) // (NUM_CANDIDATES // 2)
    return zoo.Flops(request=twice - per_candidate * NUM_CANDIDATES, candidate=per_candidate)


def check_closed_form(name: str, sizes: zoo.Sizes) -> None:
    form = zoo.make(name, sizes).work
    assert form is not None
    assert work_of(unbound_call, name, sizes) == form.after
    assert work_of(bound_call, name, sizes) == form.bound


@pytest.mark.parametrize("name", models(OPEN))
def test_the_work_left_is_the_closed_form(name: str) -> None:
    check_closed_form(name, zoo.SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", models(OPEN_WHEN_FULL))
def test_the_work_left_is_the_closed_form_in_the_full_configuration(name: str) -> None:
    check_closed_form(name, zoo.FULL)


@pytest.mark.parametrize("name", models(REPORT_OPEN))
def test_the_report_states_the_work_that_is_run(name: str) -> None:
    """The report predicts; the counter watches the kernels."""
    report = shared(name).report
    for is_bound, call in ((False, unbound_call), (True, bound_call)):
        ran = work_of(call, name, zoo.SMALL).total(NUM_CANDIDATES)
        assert report.flops(NUM_CANDIDATES, 1, bound=is_bound)["after"] == ran


@pytest.mark.parametrize("name", ["CoAction", "KernelPooling"])
def test_where_sharing_leaves_all_work_the_form_says_so(name: str) -> None:
    form = zoo.make(name, zoo.FULL).work
    assert form is not None
    assert form.after == zoo.Flops(0, form.before)

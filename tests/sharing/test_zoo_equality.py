"""Every zoo model, shared, scores as the original does on replicated pairs; or it is refused for a true reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure
from zoo.compiled import NUM_ITEMS, bound, catalogue, original, shared
from zoo.oracle import FP32_TOLERANCE, FP64_TOLERANCE, largest_difference, pairwise

from depthrank.errors import SharingError
from depthrank.sharing import share

REFUSED = {"DIEN": "branches on the data: has_hist.any()"}
SHARED = [name for name in zoo.NAMES if name not in REFUSED]
SHAPES = [(1, 1), (1, 2), (1, 17), (3, 11), (2, 0), (1, 0), (5, 77), (2, 1)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def draws(name: str, dtype: torch.dtype = torch.float32) -> list[zoo.Inputs]:
    model = zoo.make(name, zoo.SMALL)
    drawn = [model.draw(100 + i, r, n) for i, (r, n) in enumerate(SHAPES)]
    return [inputs.double() for inputs in drawn] if dtype == torch.float64 else drawn


def rows_of(inputs: zoo.Inputs) -> Tensor | None:
    """One request goes the way of one request: without ``request_of_candidate``."""
    single = next(iter(inputs.request.values())).shape[0] == 1
    return None if single else inputs.request_of_candidate


def score(ours: Any, inputs: zoo.Inputs) -> Any:
    """The shared form itself, also where the original would be used because sharing does not pay."""
    return ours.score(ours.encode(inputs.request), inputs.candidate, rows_of(inputs))


@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_shared_equals_the_original_in_fp32(name: str) -> None:
    model, module = zoo.make(name, zoo.SMALL), original(name)
    for inputs in draws(name):
        truth = pairwise(model, module, inputs)
        for ours in (score(shared(name), inputs), shared(name)(inputs.request, inputs.candidate, rows_of(inputs))):
            assert tree_structure(ours) == tree_structure(truth)
            assert largest_difference(ours, truth) <= FP32_TOLERANCE, inputs.num_candidates


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_shared_equals_the_original_in_fp64(name: str) -> None:
    model, module = zoo.make(name, zoo.SMALL), original(name, zoo.SMALL, torch.float64)
    for inputs in draws(name, torch.float64):
        ours, truth = score(shared(name, zoo.SMALL, torch.float64), inputs), pairwise(model, module, inputs)
        assert largest_difference(ours, truth) <= FP64_TOLERANCE, inputs.num_candidates


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_the_full_configuration_is_equal_too(name: str) -> None:
    model, module = zoo.make(name, zoo.FULL), original(name, zoo.FULL)
    for seed, (num_requests, num_candidates) in enumerate([(1, 1), (1, 17), (3, 11)]):
        inputs = model.draw(300 + seed, num_requests, num_candidates)
        gap = largest_difference(score(shared(name, zoo.FULL), inputs), pairwise(model, module, inputs))
        assert gap <= FP32_TOLERANCE, num_candidates


@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_one_request_given_as_rows_scores_the_same(name: str) -> None:
    inputs = zoo.make(name, zoo.SMALL).draw(seed=5, num_requests=1, num_candidates=9)
    ours = shared(name)
    state = ours.encode(inputs.request)
    explicit = ours.score(state, inputs.candidate, torch.zeros(9, dtype=torch.int64))
    assert largest_difference(explicit, ours.score(state, inputs.candidate)) <= FP32_TOLERANCE


@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_a_bound_catalogue_scores_the_same(name: str) -> None:
    model, module = zoo.make(name, zoo.SMALL), original(name)
    items = catalogue(name)
    for i, (num_requests, num_candidates) in enumerate(SHAPES):
        inputs = model.draw(200 + i, num_requests, num_candidates)
        item_rows = torch.randint(NUM_ITEMS, (num_candidates,), generator=torch.Generator().manual_seed(i))
        chosen = {item: items[item][item_rows] for item in model.item_names}
        others = {other: inputs.candidate[other] for other in model.per_request_context}
        candidate = {column: chosen.get(column, others.get(column)) for column in inputs.candidate}
        asked = zoo.Inputs(inputs.request, candidate, inputs.request_of_candidate)
        ours = bound(name)(inputs.request, item_rows, others, inputs.request_of_candidate)
        assert largest_difference(ours, pairwise(model, module, asked)) <= FP32_TOLERANCE, num_candidates


def weighted_sum(outputs: Any) -> Tensor:
    """A loss whose gradient differs from row to row."""
    total = torch.zeros(())
    for output in tree_leaves(outputs):
        weights = torch.linspace(-1.0, 1.5, output.numel(), dtype=output.dtype).view_as(output)
        total = total + (output * weights).sum()
    return total


def gradients(module: nn.Module, outputs: Any) -> dict[str, Tensor]:
    module.zero_grad()
    weighted_sum(outputs).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", SHARED)
def test_gradients_flow_through_the_shared_form_and_match(name: str) -> None:
    model, module = zoo.make(name, zoo.SMALL), original(name)
    inputs = model.draw(seed=7, num_requests=3, num_candidates=13)
    truth = gradients(module, pairwise(model, module, inputs))
    trainable = shared(name).trainable()
    ours = gradients(module, trainable(inputs.request, inputs.candidate, inputs.request_of_candidate))
    assert truth.keys() == ours.keys()
    for parameter, grad in truth.items():
        assert largest_difference(ours[parameter], grad) <= 1e-4, parameter


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(name: str) -> None:
    model = zoo.make(name, zoo.SMALL)
    with pytest.raises(SharingError, match=r"data|shape|values"):
        share(original(name), model.example(), request_inputs=model.request_inputs)


def test_at_most_one_model_is_refused() -> None:
    assert len(REFUSED) <= 1
    assert set(REFUSED) <= set(zoo.NAMES)

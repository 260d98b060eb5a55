"""The zoo itself: its models vary, score pairs independently, and cost what the closed forms say before sharing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import zoo
from torch.utils._pytree import tree_leaves
from zoo.oracle import FP32_TOLERANCE, by_vmap, counted_flops, largest_difference, pairwise

NO_VMAP = {
    "DCNv2": "its bare squeeze() drops the batch of one",
    "CandidateGRU": "a GRU has no batching rule",
    "InPlaceWrites": "it writes mapped values into an unmapped buffer",
}
INDEPENDENT = [name for name in zoo.NAMES if name != "DIEN"]  # its second output is a loss over the batch


@pytest.fixture(autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", zoo.NAMES)
def test_outputs_vary_and_are_finite(name: str) -> None:
    model = zoo.make(name, zoo.SMALL)
    scores = pairwise(model, model.build(), model.draw(seed=7, num_requests=3, num_candidates=64))
    for output in tree_leaves(scores):
        assert output.isfinite().all()
        assert output.dim() == 0 or output.float().std() > 0.01


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_pair_scores_the_same_in_any_company(name: str) -> None:
    model = zoo.make(name, zoo.SMALL)
    module, inputs = model.build(), model.draw(seed=8, num_requests=2, num_candidates=12)
    rows = torch.tensor([9, 2, 5])
    some = zoo.Inputs(
        inputs.request, {k: v[rows] for k, v in inputs.candidate.items()}, inputs.request_of_candidate[rows]
    )
    every = [output[rows] for output in tree_leaves(pairwise(model, module, inputs))]
    assert largest_difference(tree_leaves(pairwise(model, module, some)), every) <= FP32_TOLERANCE


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", INDEPENDENT)
def test_vmap_over_candidates_agrees_with_replicated_pairs(name: str) -> None:
    model = zoo.make(name, zoo.SMALL)
    module, inputs = model.build(), model.draw(seed=9, num_requests=1, num_candidates=7)
    if name in NO_VMAP:
        with pytest.raises((RuntimeError, IndexError)):
            by_vmap(model, module, inputs)
        return
    assert largest_difference(by_vmap(model, module, inputs), pairwise(model, module, inputs)) <= FP32_TOLERANCE


@pytest.mark.parametrize("name", [name for name in zoo.NAMES if zoo.make(name, zoo.SMALL).work])
@pytest.mark.parametrize("sizes", [zoo.SMALL, zoo.FULL], ids=["small", "full"])
def test_the_work_before_sharing_is_the_closed_form(name: str, sizes: zoo.Sizes) -> None:
    model = zoo.make(name, sizes)
    assert model.work is not None
    module, inputs = model.build(), model.draw(seed=10, num_requests=2, num_candidates=5)
    assert counted_flops(lambda: pairwise(model, module, inputs)) == 5 * model.work.before


def test_a_wrong_score_is_seen() -> None:
    model = zoo.make("DeepFM", zoo.SMALL)
    module, inputs = model.build(), model.draw(seed=11, num_requests=2, num_candidates=9)
    truth = pairwise(model, module, inputs)
    assert largest_difference(truth + 2e-5, truth) > FP32_TOLERANCE
    assert largest_difference(truth[:, None], truth) == float("inf")
    assert largest_difference(truth * float("nan"), truth) == float("inf")

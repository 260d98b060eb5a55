"""The cross network: what is shared by request equals the pairwise formula, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from depthrank.model.cross import CrossNetwork

RANK, TASKS = 3, 2


def network(u: int, c: int, layers: int, seed: int) -> CrossNetwork:
    torch.manual_seed(seed)
    cross = CrossNetwork(u, c, RANK, layers, TASKS).double()
    with torch.no_grad():
        for parameter in (*cross.bias, cross.head):
            parameter.normal_()
    return cross


def by_the_paper(cross: CrossNetwork, x_NX: Tensor) -> Tensor:
    """DCN-V2 as its paper writes it, over whole rows."""
    now = x_NX
    for down, up, bias in zip(cross.down, cross.up, cross.bias, strict=True):
        now = now + x_NX * (now @ down.T @ up.T + bias)
    return now @ cross.head.T


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.integers(0, 1_000),
)
def test_shared_by_request_equals_the_formula_of_the_paper(
    u: int, c: int, layers: int, counts: list[int], seed: int
) -> None:
    cross = network(u, c, layers, seed)
    request_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    request_RU = torch.randn(len(counts), u, dtype=torch.float64)
    candidate_NC = torch.randn(len(request_N), c, dtype=torch.float64)
    whole = torch.cat((request_RU[request_N], candidate_NC), dim=1)
    expected = by_the_paper(cross, whole)
    torch.testing.assert_close(cross.shared(candidate_NC, request_RU, request_N), expected)
    torch.testing.assert_close(cross.pair_by_pair(whole), expected)
    torch.testing.assert_close(cross(candidate_NC, request_RU, request_N), expected)
    cross.eval().prepare_to_serve()
    assert cross.served is not None
    for request in range(len(counts)):
        own = request_N == request
        with torch.no_grad():
            assert cross.served.is_of(cross)
            found = cross(candidate_NC[own], request_RU[request : request + 1], request_N[own] * 0)
        torch.testing.assert_close(found, expected[own])


def test_what_was_prepared_is_not_used_with_other_weights() -> None:
    cross = network(4, 3, 2, seed=1).eval()
    cross.prepare_to_serve()
    assert cross.served is not None and not cross.served.is_of(cross), "gradients are wanted"
    assert set(cross.state_dict()) == set(network(4, 3, 2, seed=1).state_dict())
    inputs = torch.ones(2, 3).double(), torch.ones(1, 4).double(), torch.zeros(2, dtype=torch.int64)
    other = network(4, 3, 2, seed=2).eval()
    cross.load_state_dict(other.state_dict(), assign=True)
    with torch.no_grad():
        assert not cross.served.is_of(cross)
        torch.testing.assert_close(cross(*inputs), other(*inputs))
    cross.prepare_to_serve()
    cross.train()
    assert cross.served is None


def test_gradients_are_those_of_the_pairwise_form() -> None:
    cross = network(4, 3, 2, seed=1)
    request_N = torch.tensor([0, 0, 1])
    request_RU = torch.randn(2, 4, dtype=torch.float64)
    candidate_NC = torch.randn(3, 3, dtype=torch.float64)
    whole = torch.cat((request_RU[request_N], candidate_NC), dim=1)
    found = cross.shared(candidate_NC, request_RU, request_N)
    shared = torch.autograd.grad(found.square().sum(), list(cross.parameters()))
    paired = torch.autograd.grad(by_the_paper(cross, whole).square().sum(), list(cross.parameters()))
    for a, b in zip(shared, paired, strict=True):
        torch.testing.assert_close(a, b)


def test_a_fresh_network_adds_nothing_and_learns_a_product_of_two_columns() -> None:
    torch.manual_seed(0)
    cross = CrossNetwork(2, 2, 4, 1, 1)
    x_NX, request_N = torch.randn(512, 4), torch.arange(512)
    product_N = x_NX[:, 0] * x_NX[:, 2]
    assert not cross(x_NX[:, 2:], x_NX[:, :2], request_N).any()
    optimizer = torch.optim.Adam(cross.parameters(), lr=0.03)
    for _ in range(150):
        loss = (cross(x_NX[:, 2:], x_NX[:, :2], request_N)[:, 0] - product_N).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05 * float(product_N.square().mean()), "a linear model keeps all of it"


@pytest.mark.parametrize("rows", [0, 3])
def test_one_request_and_no_candidates_are_ordinary(rows: int) -> None:
    cross = network(2, 2, 2, seed=0)
    found = cross(torch.zeros(rows, 2).double(), torch.zeros(1, 2).double(), torch.zeros(rows, dtype=torch.int64))
    assert found.shape == (rows, TASKS)

"""The conformance suite of the rewrites: each is applied where its law holds, declines with nodes where it does not,

is exact in double precision, is deterministic, and states its law in its first line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.sharing import rewrites, share
from depthrank.sharing.capture import capture
from depthrank.sharing.compiler import build_program, read_normal_form
from depthrank.sharing.inputs import read_example, split_sides
from depthrank.sharing.sharer import Options

L = 6


class Toy(nn.Module):
    """history [B, 6, 4] and user [B, 4] of the request, item [B, 4] of the candidate."""

    def __init__(self, function: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.function = function
        self.wide = nn.Linear(8, 5)
        self.narrow = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(8)
        self.table = nn.Embedding(20, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.batch_norm = nn.BatchNorm1d(5).eval()

    def forward(self, history: Tensor, user: Tensor, item: Tensor) -> Tensor:
        return self.function(self, history, user, item)


Function = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return tuple(torch.randn(*s, generator=g, dtype=dtype) for s in ((5, L, 4), (5, 4), (5, 4)))  # type: ignore[return-value]


def both(u: Tensor, c: Tensor) -> Tensor:
    return torch.cat([u, c], -1)


def causal(m: nn.Module, h: Tensor, u: Tensor, c: Tensor) -> Tensor:
    """Pointwise attention under a causal mask, as in HSTU."""
    x = torch.cat([h, c[:, None]], 1)
    weights = F.silu(torch.einsum("bqd,bkd->bqk", x, x)) * torch.ones(L + 1, L + 1, dtype=torch.bool).tril()
    return torch.einsum("bqk,bkd->bqd", weights, x).flatten(1)


def nearest(h: Tensor, c: Tensor) -> Tensor:
    """The two rows of the history that are most like the candidate."""
    top = (h @ c.unsqueeze(-1)).squeeze(-1).topk(2, 1).indices
    return h.gather(1, top.unsqueeze(-1).expand(-1, -1, h.shape[-1]))


@dataclass(frozen=True)
class Law:
    """Where a rewrite applies, and a model that looks alike where it does not (None: it takes whatever reaches it)."""

    applies: Function
    control: Function | None


LAWS: dict[str, Law] = {
    "keep_concat_unwritten": Law(lambda m, h, u, c: m.wide(both(u, c)), lambda m, h, u, c: u * c),
    "move_views_through_concat": Law(
        lambda m, h, u, c: m.wide(torch.stack([u, c], 1).flatten(1)), lambda m, h, u, c: m.wide(both(u, c))
    ),
    "look_up_parts": Law(
        lambda m, h, u, c: m.table(torch.stack([u[:, 0], c[:, 0]], 1).abs().long()).flatten(1),
        lambda m, h, u, c: m.table(c.abs().long()).flatten(1) * u[:, :1],
    ),
    "drop_masked_parts": Law(causal, lambda m, h, u, c: u * c),
    "push_elementwise_through_concat": Law(
        lambda m, h, u, c: m.wide(both(u, c).relu()), lambda m, h, u, c: m.wide(both(c, c * 2).relu()) + u[:, :1]
    ),
    "defer_broadcast_sums": Law(lambda m, h, u, c: m.narrow(u + c), lambda m, h, u, c: m.narrow(u * c)),
    "defer_broadcast_products": Law(
        lambda m, h, u, c: m.narrow(u * c.sum(1, keepdim=True)), lambda m, h, u, c: m.narrow(u * c)
    ),
    "split_linear_over_concat": Law(
        lambda m, h, u, c: m.wide(both(u, c)), lambda m, h, u, c: m.wide(both(c.relu(), c)) + u[:, :1]
    ),
    "split_linear_over_sum": Law(lambda m, h, u, c: m.narrow(u + c), lambda m, h, u, c: m.narrow((u + c).relu())),
    "contract_deferred_products": Law(
        lambda m, h, u, c: ((h * c[:, None]).sum(-1, keepdim=True).sigmoid() * h).sum(1),
        lambda m, h, u, c: h.sum(1) * c,
    ),
    "reduce_over_concat": Law(
        lambda m, h, u, c: torch.stack([u, c], 1).sum(1) ** 2,
        lambda m, h, u, c: torch.stack([c, c.relu()], 1) - u[:, None],
    ),
    "normalise_over_concat": Law(
        lambda m, h, u, c: m.wide(m.norm(both(u, c))), lambda m, h, u, c: m.wide(m.norm(both(u * c, c)))
    ),
    "work_before_picking": Law(
        lambda m, h, u, c: m.narrow(nearest(h, c)).flatten(1),
        lambda m, h, u, c: m.narrow(nearest(h, c).relu()).flatten(1),
    ),
    "work_along_other_axes": Law(
        lambda m, h, u, c: torch.stack([u, c], 1).softmax(-1), lambda m, h, u, c: torch.stack([u, c], 1).softmax(1)
    ),
    "share_attention_keys": Law(
        lambda m, h, u, c: F.scaled_dot_product_attention(c[:, None, None], h[:, None], h[:, None]).flatten(1),
        lambda m, h, u, c: F.scaled_dot_product_attention(
            u[:, None, None], h[:, None] * c[:, None, None], h[:, None]
        ).flatten(1),
    ),
    "split_products_over_concat": Law(
        lambda m, h, u, c: torch.einsum("bld,bd->bl", torch.cat([h, c[:, None]], 1), c), lambda m, h, u, c: u * c
    ),
    "share_products_with_request": Law(
        lambda m, h, u, c: torch.einsum("bld,bd->bl", h, c),
        lambda m, h, u, c: torch.einsum("bld,bd->bl", h, u) * c[:, :1],
    ),
    "share_picked_rows": Law(
        lambda m, h, u, c: h[torch.arange(h.shape[0]), c.argmax(1)] * u,
        lambda m, h, u, c: (h * c[:, None])[torch.arange(h.shape[0]), u.argmax(1)],
    ),
    "hoist_request_work": Law(lambda m, h, u, c: m.gru(h)[0][:, -1] * c, None),
}


def report_lines(function: Function) -> tuple[set[str], dict[str, tuple[str, ...]], object]:
    shared = share(Toy(function).double(), example(), ["history", "user"])
    declined = {line.rewrite: line.nodes for line in shared.report.declined}
    return {line.rewrite for line in shared.report.applied}, declined, shared


def test_every_rewrite_has_a_law_here() -> None:
    assert set(LAWS) | {"fold_batch_norm"} == {name for name, _ in rewrites.PIPELINE}


@pytest.mark.parametrize("name", LAWS)
def test_a_rewrite_applies_and_is_exact_in_double_precision(name: str) -> None:
    applied, _, shared = report_lines(LAWS[name].applies)
    assert name in applied
    module = Toy(LAWS[name].applies).double()
    h, u, _ = example()
    rows = torch.tensor([1, 0, 1, 2, 2, 0, 1])
    items = torch.randn(7, 4, dtype=torch.float64)
    found = shared({"history": h[:3], "user": u[:3]}, {"item": items}, rows)  # type: ignore[operator]
    torch.testing.assert_close(found, module(h[rows], u[rows], items), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, law in LAWS.items() if law.control is not None])
def test_a_rewrite_leaves_alone_what_its_law_does_not_cover(name: str) -> None:
    control = LAWS[name].control
    assert control is not None
    applied, _, _ = report_lines(control)
    assert name not in applied


@pytest.mark.parametrize("name", LAWS)
def test_sharing_again_gives_the_same_graph(name: str) -> None:
    """The pipeline has no state: what it emits depends on the model alone."""
    module = Toy(LAWS[name].applies)
    inputs = read_example(module, example(torch.float32))
    sides = split_sides(inputs, ["history", "user"])
    form = read_normal_form(capture(module, inputs))
    first, second = (build_program(form, sides, Options())[0] for _ in range(2))
    describe = [(n.op, str(n.args), n.region, n.dims) for n in first.graph.live()]
    assert describe == [(n.op, str(n.args), n.region, n.dims) for n in second.graph.live()]


@pytest.mark.parametrize("name", [n for n, _ in rewrites.PIPELINE])
def test_the_first_line_of_a_rewrite_states_its_law(name: str) -> None:
    module = inspect.getmodule(dict(rewrites.PIPELINE)[name])
    assert module is not None and module.__doc__ is not None
    assert module.__name__.endswith(name)
    assert len(module.__doc__.splitlines()[0]) > 20


def test_a_declined_rewrite_says_why_and_names_the_nodes() -> None:
    _, declined, shared = report_lines(lambda m, h, u, c: m.wide(both(c.relu(), c)) + u[:, :1])
    assert declined.get("split_linear_over_concat")
    assert "every part of the concat is candidate-side" in shared.explain()  # type: ignore[attr-defined]


def test_a_rewrite_can_be_left_out_and_the_result_stays_equal() -> None:
    module = Toy(LAWS["split_linear_over_concat"].applies)
    h, u, c = example(torch.float32)
    with_it = share(module, (h, u, c), ["history", "user"])
    without = share(module, (h, u, c), ["history", "user"], without=["split_linear_over_concat"])
    assert with_it.report.flops_per_candidate < without.report.flops_per_candidate
    args = ({"history": h[:1], "user": u[:1]}, {"item": c})
    torch.testing.assert_close(with_it(*args), without(*args))


def test_only_the_position_that_is_read_is_computed() -> None:
    def last_of_self_attention(m: nn.Module, h: Tensor, u: Tensor, c: Tensor) -> Tensor:
        x = torch.cat([h, c[:, None]], 1)
        return m.narrow(F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0])[:, -1]

    shared = share(Toy(last_of_self_attention), example(torch.float32), ["history", "user"])
    assert shared.report.flops_per_pair == 4 * (L + 1) ** 2 * 4 + 2 * (L + 1) * 4 * 3
    weighting_its_own_value = 2 * 4  # scales a vector: no product
    assert shared.report.flops_per_candidate == 4 * (L + 1) * 4 - weighting_its_own_value + 2 * 4 * 3


def test_a_tensor_read_twice_by_one_layer_is_multiplied_once() -> None:
    """W1 t + W2 (t - h) = (W1 + W2) t - W2 h."""
    shared = share(Toy(lambda m, h, u, c: m.wide(both(c, c - u))), example(torch.float32), ["history", "user"])
    assert shared.report.flops_per_candidate == 2 * 4 * 5
    assert shared.report.flops_per_request == 2 * 4 * 5


def test_batch_norm_after_a_split_layer_stays_one_pass() -> None:
    shared = share(
        Toy(lambda m, h, u, c: m.batch_norm(m.wide(both(u, c)))), example(torch.float32), ["history", "user"]
    )
    ops = [n.op for n in shared.program.graph.live() if n.region.name == "MIXED"]
    assert ops.count("linear") == 1 and len([o for o in ops if o not in ("input", "lift", "linear")]) == 1


def test_batch_norm_is_folded_only_on_request_and_stays_exact() -> None:
    module = Toy(lambda m, h, u, c: m.batch_norm(m.wide(both(u, c)))).double()
    h, u, c = example()
    plain, folded = (share(module, (h, u, c), ["history", "user"], fold_batch_norm=f) for f in (False, True))
    assert (plain.report.folded_batch_norms, folded.report.folded_batch_norms) == (0, 1)
    rows = torch.tensor([0, 2, 1, 1, 0])
    request = {"history": h[:3], "user": u[:3]}
    torch.testing.assert_close(folded(request, {"item": c}, rows), module(h[rows], u[rows], c), rtol=1e-12, atol=1e-12)

"""What mixes rows is refused with its reason and the model's own line; what only looks like it is shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from depthrank.errors import SharingError
from depthrank.sharing import Refused, share

torch.set_num_threads(1)


class Toy(nn.Module):
    """Two inputs, a user vector [B, 4] and an item vector [B, 4], and a function of both."""

    def __init__(self, function: Callable[[nn.Module, Tensor, Tensor], Tensor], training: bool = False) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.table = nn.Parameter(torch.randn(50, 4))
        self.register_buffer("calls", torch.zeros(()))
        self.train(training)

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        return self.function(self, u, c)


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[[nn.Module, Tensor, Tensor], Tensor]
    reason: str = ""
    training: bool = False


def loop_with_a_state(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
    rows = [u[0] * c[0]]
    for k in range(1, len(u)):
        rows.append(rows[-1] * 0.5 + u[k] * c[k])
    return torch.stack(rows)


def loop_over_rows(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
    return torch.stack([u[i] * c[i] for i in range(u.shape[0])])


def count_calls(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
    m.calls += 1
    return u * c


def branch_on_values(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
    return u * c if u.sum() > 0 else u + c


def write_first_row(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
    out = u * c
    out[0] = 0
    return out


REFUSED = [
    Case("sum over the batch", lambda m, u, c: u * c - c.sum(0), "mixes rows"),
    Case("mean over everything", lambda m, u, c: u * c - c.mean(), "mixes rows"),
    Case("largest of everything", lambda m, u, c: u * c / c.max(), "mixes rows"),
    Case("standard deviation over the batch", lambda m, u, c: u * c / c.std(0), "mixes rows"),
    Case("softmax over the batch", lambda m, u, c: (u * c).softmax(0), "softmax over the batch"),
    Case("cumsum over the batch", lambda m, u, c: (u * c).cumsum(0), "mixes rows"),
    Case("sort over the batch", lambda m, u, c: u * c.sort(0)[0], "mixes rows"),
    Case("topk over the batch", lambda m, u, c: u + c.topk(1, 0)[0], "mixes rows"),
    Case("argmax over the batch", lambda m, u, c: u * c.argmax(0), "mixes rows"),
    Case("flip over the batch", lambda m, u, c: u * c.flip(0), "mixes rows"),
    Case("roll over the batch", lambda m, u, c: u * c.roll(1, 0), "mixes rows"),
    Case("norm over the batch", lambda m, u, c: u * c / c.norm(dim=0), "mixes rows"),
    Case("layer norm over the batch", lambda m, u, c: u + nn.functional.layer_norm(c.t(), (7,)).t(), "batch"),
    Case("in-batch product", lambda m, u, c: u @ c.t(), "in-batch"),
    Case("in-batch elementwise", lambda m, u, c: (u[:, None] * c[None]).sum((1, 2)), "in-batch"),
    Case("pairs of rows", lambda m, u, c: u[:, None, 0] - c[None, :, 0], "in-batch"),
    Case("Gram matrix over rows", lambda m, u, c: u * (c.t() @ c).sum(0), "sums over the batch"),
    Case("batch size as a value", lambda m, u, c: u * c / u.shape[0], "number of rows is used as a value"),
    Case("batch size in a filled tensor", lambda m, u, c: u * c * torch.full((1,), u.shape[0]), "number of rows"),
    Case("row numbers as values", lambda m, u, c: u * c + torch.arange(u.shape[0])[:, None], "rows"),
    Case("first row read", lambda m, u, c: u * c[0], "row of"),
    Case("all rows but the first", lambda m, u, c: torch.cat([c[:1], u[1:] * c[1:]]), ""),
    Case("concat along the batch, reversed", lambda m, u, c: torch.cat([u, c], 0).flip(0), "flip over"),
    Case("rows beside a constant row", lambda m, u, c: torch.cat([u * c, m.table[:1]], 0), "concatenation along"),
    Case("reshape across the batch", lambda m, u, c: (u * c).reshape(2, -1), "batch"),
    Case("permuted rows", lambda m, u, c: u * c[torch.tensor([1, 0, 2, 3, 4, 5, 6])], ""),
    Case("loop over rows that carries a state", loop_with_a_state, "meet other rows"),
    Case("data-dependent branch", branch_on_values, "depends on the values"),
    Case("boolean index", lambda m, u, c: (u * c)[c > 0], ""),
    Case("batch norm in training", lambda m, u, c: u + m.norm(c), "", training=True),
    Case("dropout in training", lambda m, u, c: m.drop(u * c), "random", training=True),
    Case("random noise", lambda m, u, c: u * c + torch.rand_like(c), "random"),
    Case("buffer changed in forward", count_calls, "writes to a buffer"),
    Case("write to one row", write_first_row, ""),
]

ALLOWED = [
    Case("sum over features", lambda m, u, c: u * c - c.sum(1, keepdim=True)),
    Case("softmax over features", lambda m, u, c: (u * c).softmax(1)),
    Case("cumsum over features", lambda m, u, c: (u * c).cumsum(1)),
    Case("sort of request features", lambda m, u, c: u.sort(1)[0] * c),
    Case("topk of candidate features", lambda m, u, c: c.topk(2, 1)[0] * u[:, :2]),
    Case("flip over features", lambda m, u, c: u * c.flip(1)),
    Case("product per row", lambda m, u, c: torch.bmm(u[:, None], c[:, :, None]).squeeze()),
    Case("outer product per row", lambda m, u, c: (u[:, :, None] * c[:, None]).flatten(1)),
    Case("batch size in a shape", lambda m, u, c: torch.zeros(u.shape[0], 1) + (u * c).view(u.shape[0], 4)),
    Case("whole slice", lambda m, u, c: u[:] * c[:, :2].repeat(1, 2)),
    Case("concat of features", lambda m, u, c: m.linear(torch.cat([u, c], 1))),
    Case("transposed reshape", lambda m, u, c: (u * c).t().reshape(2, 2, -1).permute(2, 0, 1)),
    Case("batch norm in eval", lambda m, u, c: u + m.norm(c)),
    Case("dropout in eval", lambda m, u, c: m.drop(u * c)),
    Case("in-place on a copy", lambda m, u, c: (u * 1).mul_(c)),
    Case("columns by a constant index", lambda m, u, c: (u * c)[:, torch.tensor([2, 0])]),
    Case("own position by row number", lambda m, u, c: c[torch.arange(u.shape[0]), u.argmax(1)]),
    Case("table rows by a computed id", lambda m, u, c: m.table[(c[:, 0].abs() * 3).long() % 50] * u),
    Case("heads laid along the batch", lambda m, u, c: torch.cat(torch.cat(u.chunk(2, 1), 0).chunk(2, 0), 1) * c),
    Case("loop over rows", loop_over_rows),
    Case("only the request", lambda m, u, c: u.relu()),
    Case("only the candidate", lambda m, u, c: c.relu()),
]


def example() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 4), torch.randn(7, 4)


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c.name)
def test_what_mixes_rows_is_refused_with_its_reason(case: Case) -> None:
    with pytest.raises(Refused) as caught:
        share(Toy(case.function, case.training), example(), ["u"])
    assert case.reason in str(caught.value)
    assert caught.value.reason and caught.value.node


@pytest.mark.parametrize("case", ALLOWED, ids=lambda c: c.name)
def test_what_works_row_by_row_is_shared_and_equal(case: Case) -> None:
    module = Toy(case.function)
    shared = share(module, example(), ["u"])
    u, c = torch.randn(2, 4), torch.randn(9, 4)
    rows = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1])
    torch.testing.assert_close(shared({"u": u}, {"c": c}, rows), module(u[rows], c), rtol=1e-5, atol=1e-5)


class Centred(nn.Module):
    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        return u * c - c.sum(0)


def test_a_refusal_names_the_line_of_the_model() -> None:
    with pytest.raises(Refused) as caught:
        share(Centred(), example(), ["u"])
    assert "test_sharing_soundness.py" in caught.value.source and "c.sum(0)" in caught.value.source


def test_mixing_hidden_behind_an_example_is_caught_by_the_row_test() -> None:
    """The branch is taken by tracing alone; running the original shows that its rows depend on each other."""

    def hidden(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
        return u * c if torch.compiler.is_exporting() else u * c - c.mean(0)

    with pytest.raises(SharingError, match="rows"):
        share(Toy(hidden), example(), ["u"])


def test_a_form_that_differs_from_the_original_is_never_handed_out() -> None:
    def other(m: nn.Module, u: Tensor, c: Tensor) -> Tensor:
        return u * c if torch.compiler.is_exporting() else u * c + 1e-3

    with pytest.raises(SharingError, match="differs from the original"):
        share(Toy(other), example(), ["u"])


def test_sharing_changes_neither_the_module_nor_a_global_setting() -> None:
    module = Toy(lambda m, u, c: m.linear(torch.cat([u, c], 1)))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    settings = (
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_rng_state(),
    )
    share(module, example(), ["u"])
    after = (
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_rng_state(),
    )
    assert settings[:3] == after[:3]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_constant_outputs_are_named_in_the_report() -> None:
    shared = share(Toy(lambda m, u, c: torch.sigmoid(100 + 0 * u * c)), example(), ["u"])
    assert any("did not vary" in note for note in shared.report.notes)

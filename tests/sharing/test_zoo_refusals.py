"""Models that look at other rows of their batch are refused with the reason and the line, never shared wrongly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.errors import SharingError
from depthrank.sharing import share


class PerRow(nn.Module):
    """The positive control: a plain ranker into which each case below puts one operation over the batch."""

    def __init__(self, twist: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(20, 4), nn.Embedding(20, 4)
        self.out, self.twist = nn.Linear(8, 3), twist

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.twist(self.out(torch.cat([self.user(user), self.item(item)], dim=1)))


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax over the batch": lambda x: x.softmax(dim=0),
    "minus the batch mean": lambda x: x - x.mean(0),
    "sort over the batch": lambda x: x.sort(dim=0).values,
    "cumulative sum over the batch": lambda x: x.cumsum(0),
    "in-batch similarity": lambda x: x @ x.t(),
    "in-batch attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
    "flip of the batch": lambda x: x.flip(0),
    "roll along the batch": lambda x: x.roll(1, 0),
    "first row for all": lambda x: x + x[:1],
    "scaled by the batch size": lambda x: x / x.shape[0],
    "row number": lambda x: x + torch.arange(x.shape[0])[:, None],
    "batch folded into features": lambda x: x.reshape(-1).reshape(3, -1).t().contiguous(),
    "maximum of everything": lambda x: x - x.max(),
    "batch norm of the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "instance norm across rows": lambda x: F.layer_norm(x.t(), (x.shape[0],)).t(),
    "dropout left on": lambda x: F.dropout(x, 0.5, training=True),
    "noise": lambda x: x + torch.randn_like(x),
    "rows picked by value": lambda x: x[x[:, 0] > 0],
    "branch on a value": lambda x: x * 2 if x.sum() > 0 else x,
}
ROW_WISE: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax over features": lambda x: x.softmax(dim=1),
    "minus the row mean": lambda x: x - x.mean(1, keepdim=True),
    "sort over features": lambda x: x.sort(dim=1).values,
    "cumulative sum over features": lambda x: x.cumsum(1),
    "flip of features": lambda x: x.flip(1),
    "batch first after two transposes": lambda x: (x.t() * 2).t(),
    "batch folded with features and back": lambda x: x.reshape(-1).mul(3).reshape(-1, 3),
}
EXAMPLE = (torch.randint(20, (4,)), torch.randint(20, (4,)))


@pytest.mark.parametrize("what", MIXING)
def test_a_model_that_mixes_rows_is_refused(what: str) -> None:
    with pytest.raises(SharingError) as refusal:
        share(PerRow(MIXING[what]).eval(), EXAMPLE, request_inputs=["user"])
    assert len(str(refusal.value)) > 40


@pytest.mark.parametrize("what", ROW_WISE)
def test_its_row_wise_twin_is_shared_and_equal(what: str) -> None:
    module = PerRow(ROW_WISE[what]).eval()
    shared = share(module, EXAMPLE, request_inputs=["user"])
    user, item = torch.tensor([7]), torch.arange(9)
    with torch.no_grad():
        torch.testing.assert_close(shared({"user": user}, {"item": item}), module(user.expand(9), item))


def test_batch_norm_in_train_mode_is_refused_and_in_eval_mode_shared() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return self.body(torch.cat([user, item], 1))

    example = (torch.randn(4, 2), torch.randn(4, 2))
    with pytest.raises(SharingError):
        share(Normed().train(), example, request_inputs=["user"])
    share(Normed().eval(), example, request_inputs=["user"])

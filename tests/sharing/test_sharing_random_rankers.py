"""Random small rankers, composed from what rankers are made of: shared == unshared, bound == unbound."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from depthrank.sharing import share

D, L = 4, 5


class Composed(nn.Module):
    """A vector of width D is carried through a list of steps; each step may read the user, the history or the item."""

    def __init__(self, steps: list[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.steps = steps
        self.joins = nn.ModuleList(nn.Linear(2 * D, D) for _ in steps)
        self.squares = nn.ModuleList(nn.Linear(D, D) for _ in steps)
        self.gates = nn.ModuleList(nn.Linear(D, 1) for _ in steps)
        self.norm = nn.LayerNorm(2 * D)

    def forward(self, history: Tensor, user: Tensor, item: Tensor) -> Tensor:
        x, x0 = item, torch.cat([user, item], -1)
        for k, step in enumerate(self.steps):
            join, square, gate = self.joins[k], self.squares[k], self.gates[k]
            if step == "join user":
                x = join(torch.cat([user, x], -1))
            elif step == "join normed":
                x = join(self.norm(torch.cat([x, user], -1)))
            elif step == "add user":
                x = square(x + user)
            elif step == "gate":
                x = x * torch.sigmoid(gate(user)) - user
            elif step == "scale":
                x = square(user * gate(x)) + x
            elif step == "cross":
                x = join(x0 * gate(x) + x0)
            elif step == "relu":
                x = square(x).relu()
            elif step == "attend":
                x = F.scaled_dot_product_attention(x[:, None], history, square(history))[:, 0]
            elif step == "pool":
                x = (torch.softmax((history * x[:, None]).sum(-1), -1)[..., None] * history).sum(1)
            elif step == "pairs":
                h = square(torch.cat([history, x[:, None]], 1))
                x = h.sum(1) ** 2 - (h**2).sum(1)
            elif step == "unit":
                wide = x[:, None].expand(-1, L, -1)
                x = (join(torch.cat([wide - history, wide * history], -1)).tanh() * history).mean(1)
            elif step == "causal":
                h = torch.cat([history, x[:, None]], 1)
                x = F.scaled_dot_product_attention(square(h), h, h, is_causal=True)[:, -1]
            else:
                f = torch.stack([user, x, x * user], 1)
                x = torch.einsum("bfd,bgd->bfg", f, square(f)).amax(1).sum(-1, keepdim=True) * x
        return x


STEPS = ["join user", "join normed", "add user", "gate", "scale", "cross", "relu", "attend", "pool", "pairs", "unit"]
STEPS += ["causal", "field products"]


@settings(max_examples=14, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4), st.integers(0, 9))
def test_a_random_ranker_scores_the_same_shared_and_bound(steps: list[str], seed: int) -> None:
    module = Composed(steps, seed).double().eval()
    g = torch.Generator().manual_seed(seed)
    history, user, item = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((4, L, D), (4, D), (9, D)))
    shared = share(module, (history, user, item[:4]), ["history", "user"])
    assert shared.report.flops_per_candidate <= shared.report.flops_per_pair * 1.05 + 4 * L * D
    for requests, rows in ((1, torch.zeros(9, dtype=torch.int64)), (4, torch.randint(4, (9,), generator=g))):
        request = {"history": history[:requests], "user": user[:requests]}
        expected = module(history[rows], user[rows], item)
        index = None if requests == 1 else rows
        torch.testing.assert_close(shared.score(shared.encode(request), {"item": item}, index), expected)
        places = torch.randint(9, (9,), generator=g)
        bound = shared.bind({"item": item})(request, places, {}, index)
        torch.testing.assert_close(bound, module(history[rows], user[rows], item[places]))

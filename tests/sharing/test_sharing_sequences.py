"""Sequences as people write them: packed, padded, half precise, or picked from by the candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from depthrank.sharing import Refused, share

V, D, L, B = 20, 4, 5, 6


class Ranker(nn.Module):
    """history [B, 5], padded with 0 behind, and its length [B] of the request; item [B] of the candidate."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.ids = nn.Embedding(V, D)
        self.gru, self.rnn = nn.GRU(D, 3, batch_first=True), nn.RNN(D, 3, batch_first=True, nonlinearity="relu")
        self.deep = nn.GRU(D, 3, num_layers=2, bidirectional=True, bias=False)
        self.lstm = nn.LSTM(D, 3, bidirectional=True, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(D, 2, 8, batch_first=True)
        self.out = nn.Linear(2 * D, 2)

    def forward(self, history: Tensor, length: Tensor, item: Tensor) -> Tensor:
        return self.function(self, history, length, item)


def last_state(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    packed = pack_padded_sequence(m.ids(h), n.cpu(), batch_first=True, enforce_sorted=False)
    return torch.cat([m.gru(packed)[1][-1], m.rnn(packed)[1][-1]], 1)[:, :D] * m.ids(i)


def every_layer_and_direction(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """Time first, padded again behind the net, each row read at its own last step."""
    packed = pack_padded_sequence(m.ids(h).transpose(0, 1), n, enforce_sorted=False)
    out, states = m.deep(packed)
    padded, lengths = pad_packed_sequence(out, padding_value=2.0, total_length=L + 1)
    own = padded[lengths - 1, torch.arange(n.shape[0])]
    return torch.cat([own, padded.sum((0, 2)).unsqueeze(1), *states.unbind(0)], 1) * m.ids(i)[:, :1]


def cells(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    first = torch.ones(2, n.shape[0], 3) / 2
    packed = pack_padded_sequence(m.ids(h), n, batch_first=True, enforce_sorted=False)
    _, (state, cell) = m.lstm(packed, (first, first * 3))
    return torch.cat([state[0], cell[0], cell[1]], 1) * m.ids(i)[:, :1]


def padded_encoder(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """Mean over what is no padding; with every position padded, the fused kernel answers NaN."""
    seen = (h != 0).unsqueeze(-1)
    encoded = m.encoder(m.ids(h), src_key_padding_mask=h == 0)
    return m.out(torch.cat([(encoded * seen).sum(1) / seen.sum(1).clamp(min=1), m.ids(i)], 1))


def own_positions(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """Rows by row number: the mask of transformers' models, the last step, the nearest two."""
    row, x = torch.arange(h.shape[0]), m.ids(h)
    mask = (h != 0)[row[:, None, None, None], torch.arange(L)[None, None, None, :]]
    near = (x @ m.ids(i).unsqueeze(-1)).squeeze(-1).topk(2, 1).indices
    picked = m.encoder.linear1(x[row[:, None], near])
    return torch.cat([mask[:, 0, 0] * 1.0, x[row, n - 1], picked.flatten(1)], 1)


SHARED = [last_state, every_layer_and_direction, cells, padded_encoder, own_positions]


def draw(requests: int, candidates: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    length = torch.randint(1, L + 1, (requests,))
    history = torch.where(torch.arange(L) < length[:, None], torch.randint(1, V, (requests, L)), 0)
    return (
        {"history": history, "length": length},
        torch.randint(V, (candidates,)),
        torch.randint(requests, (candidates,)),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", SHARED, ids=lambda f: f.__name__)
@torch.no_grad()
def test_a_sequence_model_is_shared_and_equal(function: Callable[..., Tensor]) -> None:
    module = Ranker(function).eval()
    request, item, _ = draw(B, B)
    shared = share(module, {**request, "item": item}, ["history", "length"])
    assert not any("hoisting alone" in note for note in shared.report.notes)
    assert shared.report.flops_per_request > 0
    for requests, candidates in ((1, 7), (3, 8)):
        request, item, rows = draw(requests, candidates)
        expected = module(**{k: v[rows] for k, v in request.items()}, item=item)
        found = shared.score(shared.encode(request), {"item": item}, None if requests == 1 else rows)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_module_s_nets_are_as_they_were_after_sharing() -> None:
    module = Ranker(last_state).eval()
    request, item, _ = draw(B, B)
    share(module, {**request, "item": item}, ["history", "length"])
    assert all("forward" not in vars(net) for net in module.modules())


def by_batch_sizes(m: Any, h: Tensor, n: Tensor, i: Tensor) -> Tensor:
    """A loop over the steps of a packed sequence: how many rows a step has depends on the values."""
    packed = pack_padded_sequence(m.ids(h), n, batch_first=True, enforce_sorted=False)
    steps = int(packed.batch_sizes[0])
    return packed.data[:steps].sum(1, keepdim=True) * m.ids(i)


def test_a_loop_over_the_steps_of_a_packed_sequence_is_refused() -> None:
    request, item, _ = draw(B, B)
    with pytest.raises(Refused):
        share(Ranker(by_batch_sizes).eval(), {**request, "item": item}, ["history", "length"])


class HalfPrecise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ids, self.net = nn.Embedding(V, 8), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(torch.cat([self.ids(user), self.ids(item)], 1)).float()


def test_a_model_with_an_autocast_block_can_be_bound() -> None:
    """Bound and unbound round at different places: they are held to the precision of the block."""
    module = HalfPrecise().eval()
    user, items = torch.arange(V), torch.arange(V)
    shared = share(module, {"user": user, "item": items}, ["user"])
    bound = shared.bind({"item": items})
    assert "Binding: pays" in shared.explain()
    assert shared.report.table_bytes_per_item == 8 * 2  # the item's half of the first layer, in half precision
    expected = module(user[:1].expand(V), items)
    torch.testing.assert_close(bound({"user": user[:1]}, items), expected, rtol=0, atol=4 * 2**-7)

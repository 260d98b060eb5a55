"""Rows that are picked, sorted, guarded or shifted as a batch, yet each keep to themselves; and those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import rnn

from depthrank.sharing import Refused, Shared, share
from depthrank.sharing.rewrites import PIPELINE
from depthrank.sharing.verify import distance

torch.set_num_threads(1)
ROWS, STEPS, D = 12, 5, 4


class Ranker(nn.Module):
    """A history h [B, L] with x [B, L], a candidate i [B] with y [B, 3], and a function of both."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        gen = torch.Generator().manual_seed(0)
        self.items, self.lin = nn.Embedding(20, D, padding_idx=0), nn.Linear(D, D)
        self.square = nn.Parameter(torch.randn(D, D, generator=gen))
        self.up = nn.ConvTranspose1d(D, D, 3, padding=1)
        self.cell, self.gru = nn.GRUCell(D, D), nn.GRU(D, D, batch_first=True)
        self.function = function

    def forward(self, h: Tensor, x: Tensor, i: Tensor, y: Tensor) -> Any:
        return self.function(self, self.items(h), x, self.items(i), y, h, i)


def example() -> tuple[Tensor, ...]:
    gen = torch.Generator().manual_seed(1)
    h = torch.randint(1, 20, (ROWS, STEPS), generator=gen)
    h[:, 2:] *= torch.rand(ROWS, 3, generator=gen).round().long()
    x, y = torch.randn(ROWS, STEPS, generator=gen), torch.randn(ROWS, 3, generator=gen)
    return h, x, torch.randint(1, 20, (ROWS,), generator=gen), y


def made(function: Callable[..., Any], **options: Any) -> Shared:
    torch.manual_seed(0)
    return share(Ranker(function).eval(), example(), ["h", "x"], timed=False, **options)


def towers_by_any(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    out = torch.zeros_like(t)
    for k in range(3):
        mask = i % 3 == k
        if mask.any():
            out[mask] = m.lin(t[mask]) * (k + 1)
    return (out * s.mean(1)).sum(1)


def experts_by_places(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    weights, chosen = y.softmax(1).topk(2, dim=1)
    mask = F.one_hot(chosen, 3).permute(2, 1, 0)
    out = torch.zeros_like(t)
    for k in range(3):
        slot, rows = torch.where(mask[k])
        if rows.numel() == 0:
            continue
        out.index_add_(0, rows, torch.tanh(m.lin(t[rows]) * (k + 1)) * weights[rows, slot, None])
    return (out * s.mean(1)).sum(1)


def rows_by_nonzero(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    rows = (i % 3 == 1).nonzero().squeeze(-1)
    out = torch.zeros_like(t).index_copy(0, rows, m.lin(t.index_select(0, rows)))
    return (out * s.mean(1)).sum(1)


def sorted_and_back(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    lengths, order = h.ne(0).sum(1).sort(descending=True)
    packed = rnn.pack_padded_sequence(s[order], lengths, batch_first=True)
    last = m.gru(packed)[1][-1].index_select(0, torch.sort(order)[1])
    return (last * t).sum(1)


def softmax_less_the_maximum(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    scores = (s @ t.unsqueeze(-1)).squeeze(-1).masked_fill(h == 0, -1e9)
    return ((scores - scores.max()).softmax(-1) * x).sum(1)


def own_loop_over_steps(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """The AUGRU of DIEN: a cell over a packed sequence, step by step; what it gives is read by position."""
    lengths = h.ne(0).sum(1)
    data, sizes, order, back = rnn.pack_padded_sequence(s * t.unsqueeze(1), lengths, True, enforce_sorted=False)
    state, outs, start = torch.zeros(sizes[0], D), torch.zeros(data.size(0), D), 0
    for size in sizes:
        state = m.cell(data[start : start + size], state[0:size])
        outs[start : start + size] = state
        start = start + size
    out, _ = rnn.pad_packed_sequence(rnn.PackedSequence(outs, sizes, order, back), True, total_length=h.size(1))
    return out.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, D)).sum((1, 2))


def operators(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> tuple[Tensor, ...]:
    rows = torch.arange(i.size(0))
    gram = s.transpose(1, 2) @ s + torch.eye(D)
    written = torch.zeros_like(x).index_put((rows, i % STEPS), y[:, 0], accumulate=True)
    one = x.clone()
    one[rows, i % STEPS] = 2.0
    counts = torch.zeros(x.size(0), 5).scatter_reduce(1, h % 5, x, "amax", include_self=False)
    var, mean = torch.var_mean(x, dim=1, unbiased=False)
    wide = F.interpolate(s[:, None], size=(3, 3), mode="bilinear").sum((1, 2, 3))
    return (
        (torch.logcumsumexp(x, 1) * y[:, :1]).sum(1) + var * mean * y[:, 0],
        (written * x + one.pow(2)).sum(1) + counts.sum(1) * y[:, 0],
        torch.linalg.solve(gram, t).sum(1) + torch.linalg.inv(gram).sum((1, 2)) + torch.linalg.det(gram) * y[:, 0],
        (t @ torch.matrix_exp(m.square) @ torch.linalg.qr(m.square)[0].abs()).sum(1) + wide,
        torch.fft.fft2(s).real.sum((1, 2)) * y[:, 0] + torch.quantile(x, 0.3, dim=1) * y[:, 1],
        (m.up(s.transpose(1, 2)) * t.unsqueeze(-1)).sum((1, 2)),
        s.index_add(1, torch.tensor([0, 2, 0]), t[:, None].expand(-1, 3, -1)).pow(2).sum((1, 2)),
    )


def selected_by_one_mask_and_written_by_its_twin(
    m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor
) -> Tensor:
    """The rows that have a history, packed, as public code of DIEN has it: the same comparison is written twice."""
    lengths = (h.ne(0).sum(1) - 3).clamp(min=0)
    mask = lengths > 0
    kept = lengths[mask]
    if kept.shape[0] == 0:
        return torch.zeros(h.size(0))
    keys = torch.masked_select(s, mask.view(-1, 1, 1)).view(-1, STEPS, D)
    packed = rnn.pack_padded_sequence(keys, kept.cpu(), True, enforce_sorted=False)
    states, _ = rnn.pad_packed_sequence(m.gru(packed)[0], True, total_length=STEPS)
    out, again = torch.zeros_like(t), lengths > 0
    out[again] = torch.masked_select(t, again.unsqueeze(1)).view(-1, D) * states.mean(1)
    return out.sum(1)


def last_state_of_a_loop(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """The state of each row's last step, kept by writing to the rows that have the step."""
    data, sizes, _, back = rnn.pack_padded_sequence(s * t[:, None], h.ne(0).sum(1), True, enforce_sorted=False)
    state, last, start = torch.zeros(sizes[0], D), torch.zeros(sizes[0], D), 0
    for size in sizes:
        state = m.cell(data[start : start + size], state[:size])
        last[:size] = state
        start = start + size
    return (last[back] * t).sum(1)


def own_places(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """Places of each row's own along one axis or two, beside a slice, rows first or not."""
    rows, last = torch.arange(i.size(0)), h.ne(0).sum(1) - 1
    by_slice = s.transpose(1, 2)[rows, :, last] * t
    by_two = s[rows, last, i % D] * y[:, 0]
    by_step = s.transpose(0, 1)[last, rows] * y[:, 1:2]
    return by_slice.sum(1) + by_two + by_step.sum(1)


def dropped_loss(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """A loss over the batch that no output depends on."""
    scores = (s.mean(1) * t).sum(1)
    return (scores, scores.softmax(0).mean())[0]


KEPT = [
    towers_by_any, experts_by_places, rows_by_nonzero, sorted_and_back, softmax_less_the_maximum, operators,
    selected_by_one_mask_and_written_by_its_twin, own_loop_over_steps, last_state_of_a_loop, own_places, dropped_loss,
]  # fmt: skip


@pytest.mark.parametrize("function", KEPT, ids=lambda f: f.__name__)
def test_rows_that_keep_to_themselves_are_shared(function: Callable[..., Any]) -> None:
    shared = made(function)
    h, x, i, y = example()
    original = Ranker(function).eval()
    original.load_state_dict(shared._original[1].state_dict())
    many = torch.arange(40) % ROWS
    with torch.no_grad():
        expected = original(h[3].expand(40, -1), x[3].expand(40, -1), i[many], y[many.flip(0)])
    found = shared({"h": h[3:4], "x": x[3:4]}, {"i": i[many], "y": y[many.flip(0)]})
    pairs = zip(*(v if isinstance(v, tuple) else (v,) for v in (found, expected)), strict=True)
    assert max(distance(a, b) for a, b in pairs) < 1e-5
    assert not [note for note in shared.report.notes if "failed" in note]


def sorted_for_good(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    return (s[x[:, 0].argsort()].mean(1) * t).sum(1)


def branch_that_does_more(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    out, mask = torch.zeros_like(t), i % 7 == 3
    if mask.any():
        out[mask] = m.lin(t[mask])
        out = out + 1.0
    return (out * s.mean(1)).sum(1)


def branch_never_left(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    out, mask = torch.zeros_like(t), i > -1
    if mask.any():
        out[mask] = m.lin(t[mask])
    return (out * s.mean(1)).sum(1)


def maximum_that_is_read(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    scores = (s @ t.unsqueeze(-1)).squeeze(-1)
    return torch.exp(scores - scores.max()).sum(1)


def written_by_a_mask_of_other_values(
    m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor
) -> Tensor:
    """The same comparison of values that were written to in between."""
    out, flags = torch.zeros_like(t), x[:, 0].clone()
    rows = m.lin(t[flags > 0])
    flags.copy_(flags.flip(0))
    out[flags > 0] = rows
    return (out * s.mean(1)).sum(1)


def state_of_a_loop(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """The last state of a step that not every row has."""
    data, sizes, _, back = rnn.pack_padded_sequence(s, h.ne(0).sum(1), True, enforce_sorted=False)
    state, start = torch.zeros(sizes[0], D), 0
    for size in sizes:
        state = torch.cat([m.cell(data[start : start + size], state[:size]), state[size:]])
        start = start + size
    return (state[back] * t).sum(1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (sorted_for_good, "mixes rows"),
        (branch_that_does_more, "depends on the values of the batch|other rows of the batch"),
        (branch_never_left, "no check input showed the other case"),
        (maximum_that_is_read, "over the batch dimension mixes rows"),
        (written_by_a_mask_of_other_values, "mixes rows|not written back|other rows of the batch"),
        (state_of_a_loop, "depends on the values of the batch|particular rows|tied to a fixed number"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_rows_that_do_not_are_refused_with_the_reason(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        made(function)


class AnyKeywords(nn.Module):
    """Takes nothing but keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(20, D)

    def forward(self, **columns: Tensor) -> Tensor:
        return (self.items(columns["user"]) * self.items(columns["item"])).sum(-1)


def test_keywords_that_come_by_two_stars_have_a_dynamic_batch() -> None:
    rows = torch.randint(20, (ROWS,))
    shared = share(AnyKeywords().eval(), {"user": rows, "item": rows.flip(0)}, ["user"], timed=False)
    assert not [note for note in shared.report.notes if "captured at" in note]
    assert shared({"user": rows[:1]}, {"item": torch.arange(20)}).shape == (20,)


class WritesParameter(AnyKeywords):
    """Normalises its table in every call."""

    def forward(self, **columns: Tensor) -> Tensor:
        with torch.no_grad():
            self.items.weight.copy_(F.normalize(self.items.weight, dim=-1))
        return super().forward(**columns)


def test_a_forward_that_writes_to_a_parameter_is_refused_by_its_name() -> None:
    rows = torch.randint(20, (ROWS,))
    with pytest.raises(Refused, match=r"forward writes to the parameter: 'items\.weight'"):
        share(WritesParameter().eval(), {"user": rows, "item": rows}, ["user"])


def ill_conditioned(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """Sums of thousands that cancel: another order of adding gives another score."""
    wide = torch.cat([s.mean(1), t], 1) @ torch.cat([m.square, m.square.flip(0)]) * 1e3
    return torch.sin(wide).sum(1)


def test_a_model_whose_own_rounding_is_larger_than_the_promise_runs_as_it_is() -> None:
    shared = made(ill_conditioned)
    assert shared.report.ill_conditioned and not shared.report.pays
    assert any("own rounding" in note for note in shared.report.notes)
    h, x, i, y = example()
    expected = shared._original[1](h[:1].expand(ROWS, -1), x[:1].expand(ROWS, -1), i, y)
    assert torch.equal(shared({"h": h[:1], "x": x[:1]}, {"i": i, "y": y}), expected)


def rarely_ill_conditioned(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
    """A logarithm of what is near zero for few rows: there the last bit of a sum decides."""
    return torch.sin(torch.log((s.mean(1) * t).sum(1).abs()) * 3)


def test_rounding_that_few_inputs_show_is_looked_for_where_a_logarithm_magnifies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert made(rarely_ill_conditioned).report.ill_conditioned
    monkeypatch.setattr("depthrank.sharing.entry._MANY", ())
    assert not made(rarely_ill_conditioned).report.ill_conditioned, "the control: the usual draws do not show it"


def test_a_well_conditioned_model_is_not_taken_for_one() -> None:
    assert not made(lambda m, s, x, t, y, h, i: (s.mean(1) * t).sum(1)).report.ill_conditioned


def test_hoisting_alone_joins_constants_with_rows() -> None:
    plain = [name for name, _ in PIPELINE if name != "hoist_request_work"]
    function = lambda m, s, x, t, y, h, i: torch.cat([torch.zeros_like(s), s], 1).sum((1, 2)) * t[:, 0]  # noqa: E731
    shared = made(function, without=plain)
    assert not [note for note in shared.report.notes if "failed" in note]


def test_rotary_keys_by_complex_numbers_stay_with_the_request() -> None:
    turns = torch.polar(torch.ones(STEPS + 1, 2), torch.arange(STEPS + 1)[:, None] * torch.tensor([1.0, 0.1]))

    def rotate(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (2, 2))) * turns).flatten(-2)

    def causal(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
        seq = torch.cat([s, t.unsqueeze(1)], 1)
        for _ in range(2):
            seq = seq + F.scaled_dot_product_attention(rotate(m.lin(seq)), rotate(seq), m.lin(seq), is_causal=True)
        return seq[:, -1].sum(-1)

    at = made(causal).report.flops(1000)
    assert at["before"] > 5 * at["after"]


def test_a_layer_norm_whose_weight_is_one_number_is_split() -> None:
    def scaled(m: Any, s: Tensor, x: Tensor, t: Tensor, y: Tensor, h: Tensor, i: Tensor) -> Tensor:
        both = torch.cat([s.mean(1), t], 1)
        return F.layer_norm(both, (2 * D,), m.square[:1, 0].expand(2 * D)) @ torch.ones(2 * D).cos()

    assert not [note for note in made(scaled).report.notes if "failed" in note]

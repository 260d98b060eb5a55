"""What other people's rankers do that ours do not: each idiom is shared and equal, or refused for its own reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from depthrank.sharing import Refused, Shared, share

V, D, L, FIELDS = 30, 8, 6, 5


class Ranker(nn.Module):
    """user [B, 2], history [B, 6] and its length [B] of the request; item [B], category [B, 2] of the candidate."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.ids = nn.Embedding(V, D)
        self.square, self.wide = nn.Linear(D, D), nn.Linear(2 * D, 3)
        self.cell = nn.GRUCell(D, D)
        self.conv = nn.Conv1d(D, 4, 3, padding="same")
        self.instance, self.slope = nn.InstanceNorm1d(D), nn.RReLU()
        self.register_buffer("pairs", torch.triu(torch.ones(FIELDS, FIELDS), 1).bool())
        self.register_buffer("temperature", torch.tensor(0.5))
        self.cross = nn.Parameter(torch.randn(V, V))

    def forward(self, user: Tensor, history: Tensor, length: Tensor, item: Tensor, category: Tensor) -> Any:
        return self.function(self, user, history, length, item, category)

    def fields(self, user: Tensor, item: Tensor, category: Tensor) -> Tensor:
        return torch.cat([self.ids(user), self.ids(item)[:, None], self.ids(category)], 1)


def constant_masks(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    f = m.fields(u, i, c)
    products = f @ f.mT
    picked = products[:, m.pairs] + torch.masked_select(products, m.pairs).view(-1, FIELDS * (FIELDS - 1) // 2)
    row, column = torch.triu_indices(FIELDS, FIELDS, 1)
    first = torch.ones(FIELDS).cumsum(0) <= 2
    return torch.cat([picked, products[:, row, column], f[:, first].flatten(1)], 1) / m.temperature.item()


def contractions(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    f = m.fields(u, i, c)
    projected = torch.tensordot(f, m.square.weight, dims=([-1], [0])) + torch.einsum(
        "...d,de->...e", f, m.square.weight
    )
    trace = torch.einsum("bff->b", torch.einsum("bfd,bgd->bfg", f, f))
    near = torch.cdist(m.ids(i)[:, None], m.ids(h))[:, 0]
    mixed = torch.baddbmm(f, f, m.square.weight.expand(len(f), D, D), beta=0.5, alpha=2.0)
    return torch.cat([projected.sum(1), trace[:, None], near, mixed.sum(1)], 1)


def heads_on_the_batch(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    x = torch.cat([m.ids(h), m.ids(i)[:, None]], 1)
    q = torch.cat(torch.chunk(x, 2, dim=2), dim=0)
    read = torch.bmm(torch.bmm(q, q.transpose(1, 2)).softmax(-1), q)
    query = torch.repeat_interleave(m.ids(i), L, dim=0).view(-1, L, D)
    return torch.cat([torch.cat(torch.chunk(read, 2, dim=0), dim=2)[:, -1], (query * m.ids(h)).sum(2)], 1)


def cells(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    e, q = m.ids(h), m.ids(i)
    attention = (e * q[:, None]).sum(-1).softmax(1)
    state, own = e.new_zeros(e.shape[0], D), torch.zeros(e.size(0), D)
    for t in range(3):
        own = m.cell(e[:, t], own)
        state = (1 - attention[:, t : t + 1]) * state + attention[:, t : t + 1] * m.cell(e[:, t], state)
    return torch.cat([(state * q).sum(-1, keepdim=True), own * q], 1)


def windows(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    e = m.ids(h).transpose(1, 2)
    seen = [m.conv(e).amax(2), e.unfold(2, 3, 1).mean(-1).sum(2), F.pad(e, (1, 2), mode="reflect").sum(2)]
    seen += [m.instance(e)[:, :, 0], F.adaptive_max_pool1d(e, 1).flatten(1), torch.cummax(e, 2)[0][:, :, 1]]
    spectrum = torch.fft.irfft(torch.fft.rfft(m.ids(u[:, 0])) * torch.fft.rfft(m.ids(i)), n=D)
    return torch.cat([*seen, spectrum, m.slope(m.ids(i) - m.ids(u[:, 1]))], 1)


def rotary(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    x = torch.cat([m.ids(h), m.ids(i)[:, None]], 1)
    angle = torch.outer(torch.arange(L + 1).float(), 10.0 ** -torch.arange(D // 2).float())
    turn = torch.polar(torch.ones_like(angle), angle)
    q = torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turn).flatten(2)
    heads = q.view(q.shape[0], L + 1, 4, 2).transpose(1, 2)
    grouped = F.scaled_dot_product_attention(heads, heads[:, :2], heads[:, :2], is_causal=True, enable_gqa=True)
    return grouped[:, :, -1].flatten(1)


def picks(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    e = m.ids(h)
    rows = torch.arange(e.shape[0])
    last = e[rows, n - 1] + e.gather(1, (n - 1).view(-1, 1, 1).expand(-1, 1, D)).squeeze(1)
    near = (e * m.ids(i)[:, None]).sum(-1).topk(2, 1).indices
    similar = e.gather(1, near.unsqueeze(-1).expand(-1, -1, D)).mean(1)
    catalogue = torch.log_softmax(e.mean(1) @ m.ids.weight.t(), -1)
    return torch.cat([m.wide(torch.cat([last, similar], 1)), e[rows, c[:, 0] % L], catalogue.gather(1, i[:, None])], 1)


def writes(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> Tensor:
    both = torch.zeros(i.size(0), 2 * D)
    both[:, torch.arange(0, 2 * D, 2)] = m.ids(i)
    both[:, 1::2] = m.ids(u[:, 0])
    scores = (m.ids(h) * m.ids(i)[:, None]).sum(-1)
    scores[h == 0] = -1e9
    gate = m.wide(both)
    value, expert = gate.topk(2, 1)
    kept = torch.zeros_like(gate).scatter(1, expert, value.softmax(1))
    return torch.cat([scores.softmax(1), kept, m.cross[u[:, 0], i][:, None]], 1)


def outputs(m: Any, u: Tensor, h: Tensor, n: Tensor, i: Tensor, c: Tensor) -> dict[str, Any]:
    assert (i >= 0).all(), "negative ids"
    logits = m.wide(torch.cat([m.ids(u[:, 0]), m.ids(i)], 1))
    logits = logits + torch.zeros(len(i), 1)
    return {"logits": logits, "user": m.ids(u).sum(1), "loss": torch.zeros(1), "name": "ctr", "none": None}


IDIOMS = [constant_masks, contractions, heads_on_the_batch, cells, windows, rotary, picks, writes, outputs]


def draw(requests: int, candidates: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1, L + 1, (requests,), generator=g)
    history = torch.randint(1, V, (requests, L), generator=g) * (torch.arange(L) < length[:, None])
    request = {"user": torch.randint(V, (requests, 2), generator=g), "history": history, "length": length}
    item = torch.randint(V, (candidates,), generator=g)
    candidate = {"item": item, "category": torch.randint(V, (candidates, 2), generator=g)}
    return request, candidate, torch.randint(requests, (candidates,), generator=g)


def shared_ranker(function: Callable[..., Any]) -> tuple[nn.Module, Shared]:
    module = Ranker(function).eval()
    request, candidate, _ = draw(4, 4, 1)
    return module, share(module, {**request, **candidate}, list(request))


@pytest.mark.parametrize("function", IDIOMS, ids=lambda f: f.__name__)
def test_an_idiom_of_other_libraries_is_shared_and_equal(function: Callable[..., Any]) -> None:
    module, shared = shared_ranker(function)
    assert not any("hoisting alone" in note for note in shared.report.notes)
    for requests, candidates in ((1, 5), (3, 8)):
        request, candidate, rows = draw(requests, candidates, requests)
        with torch.no_grad():
            expected = module(**{k: v[rows] for k, v in request.items()}, **candidate)
        found = shared.score(shared.encode(request), candidate, None if requests == 1 else rows)
        assert tree_structure(found) == tree_structure(expected)
        for ours, truth in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            if isinstance(truth, Tensor):
                torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
            else:
                assert ours == truth


def test_a_candidate_that_picks_history_rows_does_not_have_the_history_written_out() -> None:
    _, shared = shared_ranker(picks)
    assert not shared.report.written_out
    assert any(line.rewrite == "share_picked_rows" for line in shared.report.applied)


def test_an_assertion_on_values_is_named_in_the_report() -> None:
    _, shared = shared_ranker(outputs)
    assert any("negative ids" in note for note in shared.report.notes)


# ------------------------------------------------------------------------------------------------- inputs and outputs


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ids, self.out = nn.Embedding(V, 4), nn.Linear(8, 2)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        return self.out(torch.cat([self.ids(user), self.ids(item)], -1))


@dataclasses.dataclass
class Scores:
    logits: Tensor
    loss: Tensor | None = None


class Both(NamedTuple):
    user: Tensor
    item: Tensor


class KeywordsOnly(Pair):
    def forward(self, **features: Tensor) -> Tensor:
        return self.score(features["user"], features["item"])


class NamedFields(Pair):
    def forward(self, batch: Both) -> Scores:
        return Scores(self.score(batch.user, batch.item))


class Nested(Pair):
    def forward(self, batch: dict[str, Any], extra: Tensor | None = None) -> Scores:
        return Scores(self.score(batch["user"]["id"], batch["items"][0]))


def test_inputs_and_outputs_keep_the_author_s_own_containers() -> None:
    user, item = torch.arange(4), torch.arange(4, 8)
    cases: list[tuple[nn.Module, Any, list[str], str, str]] = [
        (KeywordsOnly(), {"user": user, "item": item}, ["user"], "user", "item"),
        (NamedFields(), (Both(user, item),), ["batch.user"], "batch.user", "batch.item"),
        (Nested(), {"user": {"id": user}, "items": [item]}, ["user"], "user.id", "items.0"),
    ]
    for module, example, names, request, candidate in cases:
        shared = share(module.eval(), example, names)
        found = shared({request: user[:1]}, {candidate: item})
        expected = module.score(user[:1].expand(4), item)  # type: ignore[operator]
        logits = found.logits if isinstance(found, Scores) else found
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        assert isinstance(found, Scores) == (not isinstance(module, KeywordsOnly))


class Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.inner(user) * item


REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "TorchScript inside": (lambda: Twice(torch.jit.script(nn.Linear(3, 3))), "TorchScript"),
    "an original that fails": (lambda: Twice(nn.Linear(4, 3)), "the module itself raises RuntimeError"),
    "a table renormalised in forward": (
        lambda: Ranked(nn.Embedding(5, 3, max_norm=1.0)),
        "max_norm writes to its table",
    ),
    "an encoder whose padded positions are read": (lambda: PaddedEncoder(), "enable_nested_tensor=False"),
}


class Ranked(Twice):
    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.inner((user[:, 0] > 0).long()) * item


class PaddedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        x = torch.stack([user, item, user * item, user + item], -1)
        padding = torch.arange(3) > (user[:, :1] > 0.2)  # behind the first one or two positions
        return self.encoder(x, src_key_padding_mask=padding)[:, :, 0].sum(1) + item[:, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_shared_is_refused_for_its_own_reason(what: str) -> None:
    build, reason = REFUSALS[what]
    torch.manual_seed(3)
    example = (torch.randn(6, 3), torch.randn(6, 3))
    with pytest.raises(Refused) as caught:
        share(build().eval(), example, ["user"])
    assert reason in caught.value.reason


def test_a_rewrite_that_fails_leaves_a_slower_form_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    from depthrank.sharing import rewrites

    def broken(sharer: Any, call: Any) -> Any:
        raise KeyError("broken") if call.op == "linear" else None

    def faulty(sharer: Any, call: Any) -> Any:
        return broken(sharer, call) if call.op == "linear" else None

    pipeline = tuple((n, faulty if n == "split_linear_over_concat" else r) for n, r in rewrites.PIPELINE)
    monkeypatch.setattr(rewrites, "PIPELINE", pipeline)
    module = KeywordsOnly().eval()
    shared = share(module, {"user": torch.arange(4), "item": torch.arange(4)}, ["user"])
    assert any("hoisting alone" in note and "KeyError" in note for note in shared.report.notes)
    expected = module.score(torch.zeros(4, dtype=torch.int64), torch.arange(4))
    torch.testing.assert_close(shared({"user": torch.zeros(1, dtype=torch.int64)}, {"item": torch.arange(4)}), expected)

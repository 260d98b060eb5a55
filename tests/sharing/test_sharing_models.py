"""Calls, bound catalogues, files, gradients: one small ranker with everything in it, compiled once."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthrank.errors import ArtifactError, SharingError
from depthrank.sharing import BoundShared, Shared, load_shared, share


class Ranker(nn.Module):
    """User id and history, item id and a context number; attention, a cross, two tasks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = nn.Embedding(30, 8), nn.Embedding(50, 8, padding_idx=0)
        self.encoder = nn.GRU(8, 8, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(25, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, user: Tensor, history: Tensor, item: Tensor, price: Tensor) -> dict[str, Tensor]:
        u, i = self.users(user), self.items(item)
        states, _ = self.encoder(self.items(history))
        read, _ = self.attend(i[:, None], states, states, key_padding_mask=None, need_weights=False)
        out = self.mlp(torch.cat([u, i, read[:, 0] + u * i, price[:, None]], -1))
        return {"click": out[:, 0].sigmoid(), "buy": out[:, 1]}


def draw(requests: int, candidates: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    request = {
        "user": torch.randint(30, (requests,), generator=g),
        "history": torch.randint(50, (requests, 6), generator=g),
    }
    candidate = {"item": torch.randint(50, (candidates,), generator=g), "price": torch.rand(candidates, generator=g)}
    return request, candidate, torch.randint(max(requests, 1), (candidates,), generator=g)


@cache
def ranker() -> Ranker:
    module = Ranker().eval()
    module.mlp[1].running_var.fill_(0.5)  # type: ignore[union-attr, operator]
    return module


@cache
def shared() -> Shared:
    request, candidate, _ = draw(6, 6)
    return share(ranker(), {**request, **candidate}, ["user", "history"])


CATALOGUE = {"item": torch.arange(50)}


@cache
def bound() -> BoundShared:
    return shared().bind(CATALOGUE)


def original(request: dict[str, Tensor], candidate: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        out: dict[str, Tensor] = ranker()(**{k: v[rows] for k, v in request.items()}, **candidate)
    return out


def assert_equal(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize(
    ("requests", "candidates"), [(1, 1), (1, 2), (1, 333), (2, 1), (3, 17), (9, 4), (1, 0), (3, 0)]
)
def test_scores_equal_the_original_for_any_number_of_requests_and_candidates(requests: int, candidates: int) -> None:
    request, candidate, rows = draw(requests, candidates, seed=requests * 100 + candidates)
    assert_equal(shared()(request, candidate, rows), original(request, candidate, rows))


def test_one_request_needs_no_index() -> None:
    request, candidate, rows = draw(1, 5)
    assert_equal(shared()(request, candidate), original(request, candidate, rows))


def test_requests_without_candidates_and_unsorted_candidates_score_right() -> None:
    request, candidate, _ = draw(5, 6)
    rows = torch.tensor([4, 0, 4, 2, 0, 4])
    assert_equal(shared()(request, candidate, rows), original(request, candidate, rows))


def test_an_encoded_request_scores_many_candidate_sets() -> None:
    request, first, rows = draw(1, 5)
    _, second, _ = draw(1, 5, seed=7)
    state = shared().encode(request)
    assert state.bytes > 0
    assert_equal(shared().score(state, first), original(request, first, rows))
    assert_equal(shared().score(state, second), original(request, second, rows))


BAD_CALLS = {
    "misspelt": (lambda r, c, i: (r, {"itm": c["item"], "price": c["price"]}, i), "did you mean 'item'"),
    "missing": (lambda r, c, i: ({"user": r["user"]}, c, i), "missing ['history']"),
    "rows differ": (lambda r, c, i: (r, {**c, "price": c["price"][:2]}, i), "differ in their number of rows"),
    "wrong shape": (lambda r, c, i: ({**r, "history": r["history"][:, :3]}, c, i), "expected ['rows', 6]"),
    "wrong dtype": (lambda r, c, i: (r, {**c, "price": c["price"].long()}, i), "the example was torch.float32"),
    "no index": (lambda r, c, i: (r, c, None), "without request_of_candidate"),
    "index too large": (lambda r, c, i: (r, c, i + 3), "there are 3 requests"),
    "index negative": (lambda r, c, i: (r, c, i - 3), "runs from"),
    "index too short": (lambda r, c, i: (r, c, i[:2]), "expected torch.int64 [5]"),
    "index of floats": (lambda r, c, i: (r, c, i.float()), "expected torch.int64"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_wrong_call_says_what_was_expected(name: str) -> None:
    change, message = BAD_CALLS[name]
    with pytest.raises(SharingError) as caught:
        shared()(*change(*draw(3, 5)))
    assert message in str(caught.value)


BAD_SHARES = {
    "unknown input": ((torch.zeros(4, 2), torch.zeros(4, 2)), ["usr"], "request_inputs names 'usr'"),
    "all request": ((torch.zeros(4, 2), torch.zeros(4, 2)), ["u", "c"], "names every input"),
    "no tensor": ((3, 4), ["u"], "holds no tensor"),
    "rows differ": ((torch.zeros(4, 2), torch.zeros(3, 2)), ["u"], "differ in their number of rows"),
    "no rows": ((torch.zeros(0, 2), torch.zeros(0, 2)), ["u"], "has no rows"),
    "bad columns": ((torch.zeros(4, 2), torch.zeros(4, 2)), {"u": [0, 0]}, "distinct columns"),
}


class Product(nn.Module):
    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        return u * c


@pytest.mark.parametrize("name", BAD_SHARES)
def test_a_wrong_request_to_share_says_what_was_expected(name: str) -> None:
    example, request_inputs, message = BAD_SHARES[name]
    with pytest.raises(SharingError) as caught:
        share(Product(), example, request_inputs)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_the_report_reads_as_text_and_as_json() -> None:
    report = shared().report
    flops = report.flops(1000, 2)
    assert flops["after"] == 2 * report.flops_per_request + 1000 * report.flops_per_candidate < flops["before"]
    assert json.loads(shared().explain(as_json=True))["flops_per_candidate"] == report.flops_per_candidate
    text = shared().explain()
    assert "split_linear_over_concat" in text and "bind() computes it once" in text


def test_where_nothing_pays_the_original_runs_and_the_report_says_so() -> None:
    plain = share(Product(), (torch.randn(4, 2), torch.randn(4, 2)), ["u"], candidates=1)
    u, c = torch.randn(1, 2), torch.randn(5, 2)
    torch.testing.assert_close(plain({"u": u}, {"c": c}), u * c)
    if not plain.report.pays:
        assert "nothing pays" in plain.explain()


# ------------------------------------------------------------------------------------------------------------- bound


@pytest.mark.parametrize(("requests", "candidates"), [(1, 1), (1, 40), (4, 9), (1, 0), (2, 0)])
def test_a_bound_catalogue_scores_as_the_original(requests: int, candidates: int) -> None:
    request, candidate, rows = draw(requests, candidates, seed=3)
    item_rows = candidate["item"]
    found = bound()(request, item_rows, {"price": candidate["price"]}, rows if requests > 1 else None)
    assert_equal(found, original(request, candidate, rows))


def test_binding_leaves_less_to_do_for_a_candidate() -> None:
    assert bound().table_bytes > 0
    assert shared().report.bound_flops_per_candidate < shared().report.flops_per_candidate


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"itm": torch.arange(5)}, "did you mean 'item'"),
        ({}, "at least one candidate input"),
        ({"item": torch.arange(0)}, "no rows"),
        ({"item": torch.zeros(5)}, "the example was torch.int64"),
    ],
)
def test_a_wrong_catalogue_says_what_was_expected(items: dict[str, Tensor], message: str) -> None:
    with pytest.raises(SharingError, match=message):
        shared().bind(items)


def test_item_rows_outside_the_catalogue_are_refused() -> None:
    request, candidate, _ = draw(1, 3)
    with pytest.raises(SharingError, match="there are 50 catalogue rows"):
        bound()(request, torch.tensor([0, 50, 1]), {"price": candidate["price"]})


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("requests", "candidates"), [(1, 7), (3, 11)])
def test_gradients_through_the_shared_form_match_the_original(requests: int, candidates: int) -> None:
    request, candidate, rows = draw(requests, candidates, seed=5)
    module = ranker()
    trainable = shared().trainable()
    outs = [
        module(**{k: v[rows] for k, v in request.items()}, **candidate),
        trainable(request, candidate, rows if requests > 1 else None),
    ]
    grads = []
    for out in outs:
        module.zero_grad()
        (out["click"].sum() + (out["buy"] ** 2).sum()).backward()
        grads.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
    module.zero_grad()
    assert grads[0].keys() == grads[1].keys()
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, rtol=1e-4, atol=1e-5)


def test_the_trainable_form_reads_live_parameters() -> None:
    module = Product2()
    example = (torch.randn(4, 3), torch.randn(4, 3))
    trainable = share(module, example, ["u"]).trainable()
    with torch.no_grad():
        module.linear.weight.mul_(2.0)
    u, c = torch.randn(1, 3), torch.randn(5, 3)
    torch.testing.assert_close(trainable({"u": u}, {"c": c}), module(u.expand(5, 3), c))


class Product2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        out: Tensor = self.linear(torch.cat([u, c], 1))
        return out


# -------------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    shared().save(folder)
    return folder


def copy_of(saved: Path, tmp_path: Path) -> Path:
    for name in ("graph.json", "tensors.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    return tmp_path


def test_a_saved_model_scores_the_same(saved: Path) -> None:
    loaded = load_shared(saved)
    for requests, candidates in ((1, 5), (3, 8), (2, 0)):
        request, candidate, rows = draw(requests, candidates, seed=9)
        assert_equal(loaded(request, candidate, rows), shared()(request, candidate, rows))
    assert loaded.explain() == shared().explain().replace("Pays: no", "Pays: yes")


def test_a_saved_bound_model_scores_the_same(tmp_path: Path) -> None:
    bound().save(tmp_path)
    loaded = load_shared(tmp_path)
    request, candidate, rows = draw(3, 8, seed=9)
    other = {"price": candidate["price"]}
    assert_equal(loaded(request, candidate["item"], other, rows), bound()(request, candidate["item"], other, rows))


def test_no_file_of_a_saved_model_is_executable(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["graph.json", "tensors.safetensors"]


def first(header: dict[str, Any], op: str) -> dict[str, Any]:
    return next(n for n in header["nodes"] if n["op"] == op)


def set_in(op: str, key: str, value: Any) -> Any:
    return lambda h: first(h, op).__setitem__(key, value)


HOSTILE: dict[str, Any] = {
    "an operator outside the list": set_in("linear", "op", "os.system"),
    "an operator of another library": set_in("linear", "op", "torch.ops.aten.linear"),
    "an operator that writes files": set_in("linear", "op", "aten.from_file.default"),
    "an in-place operator": set_in("aten.relu.default", "op", "aten.relu_.default"),
    "a random operator": set_in("aten.relu.default", "op", "aten.rand_like.default"),
    "a dunder for an operator": set_in("aten.relu.default", "op", "aten.__class__.__init__"),
    "a forward reference": lambda h: first(h, "linear")["args"].__setitem__(0, {"node": 10**6}),
    "a negative reference": lambda h: first(h, "linear")["args"].__setitem__(0, {"node": -1}),
    "a self reference": lambda h: first(h, "linear")["args"].__setitem__(
        0, {"node": h["nodes"].index(first(h, "linear"))}
    ),
    "wrong sizes": lambda h: first(h, "linear").__setitem__("dims", [3]),
    "huge sizes": lambda h: first(h, "linear").__setitem__("dims", [1 << 60]),
    "a wrong dtype": set_in("linear", "dtype", "float64"),
    "an unknown dtype": set_in("linear", "dtype", "object"),
    "an unknown region": set_in("linear", "region", 9),
    "candidate work on the request side": lambda h: next(
        n for n in h["nodes"] if n["op"] not in ("input", "parameter") and n["region"] == 3
    ).__setitem__("region", 1),
    "an argument of unknown kind": lambda h: first(h, "linear")["args"].__setitem__(0, {"pickle": "gASV"}),
    "deep nesting": lambda h: first(h, "linear")["args"].__setitem__(0, [[[[[[[[]]]]]]]]),
    "another format": lambda h: h.__setitem__("format", "pickle"),
    "a newer version": lambda h: h.__setitem__("version", 99),
    "nodes that are no list": lambda h: h.__setitem__("nodes", {"a": 1}),
    "no nodes": lambda h: h.pop("nodes"),
    "an output that does not exist": lambda h: h.__setitem__("outputs", [10**9]),
    "an output on the request side": lambda h: h.__setitem__("outputs", [h["nodes"].index(first(h, "input"))] * 2),
    "a malformed structure": lambda h: h.__setitem__("structure", {"eval": "1+1"}),
    "an input nobody declared": lambda h: first(h, "input").__setitem__("name", "secret"),
    "a missing tensor": lambda h: first(h, "parameter").__setitem__("name", "c999999"),
    "tables that are not there": lambda h: h.__setitem__("tables", [{}, {}]),
    "a count that is no number": lambda h: h.__setitem__("num_items", "many"),
    "a report with other fields": lambda h: h["report"].__setitem__("extra", 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_one_clear_error(name: str, saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    header = json.loads((folder / "graph.json").read_text())
    HOSTILE[name](header)
    (folder / "graph.json").write_text(json.dumps(header))
    with pytest.raises(ArtifactError):
        load_shared(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b"[" * 100_000])
def test_a_graph_that_is_no_graph_is_one_clear_error(content: bytes, saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    (folder / "graph.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        load_shared(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", struct.pack("<Q", 1 << 62), struct.pack("<Q", 8) + b"{}      "])
def test_tensors_that_are_no_tensors_are_one_clear_error(content: bytes, saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    (folder / "tensors.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError):
        load_shared(folder)


def test_a_truncated_tensor_file_and_a_missing_folder_are_clear_errors(saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    data = (folder / "tensors.safetensors").read_bytes()
    (folder / "tensors.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError):
        load_shared(folder)
    with pytest.raises(ArtifactError, match="missing"):
        load_shared(tmp_path / "nowhere")


def test_a_loaded_model_cannot_be_bound_again(saved: Path) -> None:
    loaded = load_shared(saved)
    assert isinstance(loaded, Shared)
    with pytest.raises(SharingError, match="bind before saving"):
        loaded.bind(CATALOGUE)

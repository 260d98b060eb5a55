"""Compiled levels agree with eager ones at every size, and nothing in the cache is executed unless it was made here.

What compiles is slow (a minute on a busy core) and runs with `make test-slow`; the cache and the refusals run always.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from depthrank.engine.compiled_levels import (
    CompiledExpert,
    CompiledFirstStates,
    CompiledRequestSide,
    with_compiled_level,
)
from depthrank.errors import ArtifactError
from depthrank.kernels.build import compiler_missing
from depthrank.kernels.compile_cache import SEAL, CompileCache
from depthrank.model import CandidateInputs, ElasticRanker, LevelConfig, ModelConfig, RequestInputs, SideConfig
from depthrank.model.config import TransitionConfig
from depthrank.model.first_states import FirstStatesGraph
from depthrank.model.level_graph import LevelGraph, graph_inputs
from depthrank.model.request_side import RequestSideGraph
from depthrank.precision import Format, LayerChoice, in_formats, layers_of
from depthrank.precision.compilable import compilable
from depthrank.precision.observed import observed
from depthrank.tables import TableSlot

torch.set_num_threads(1)
FINGERPRINT = "0123456789abcdef"
ITEMS = 30
needs_compiler = pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing())


def small_ranker(*, reads_more: bool = False) -> ElasticRanker:
    """``reads_more``: its level has crosses and transitions."""
    torch.manual_seed(3)
    level = LevelConfig((0,), 1, 4, 4, cross_layers=2 * reads_more, cross_rank=3)
    config = ModelConfig(
        tasks=("click",),
        prior_logit=(-1.0,),
        num_actions=1,
        request=SideConfig((), 2),
        item=SideConfig((TableSlot("item", ITEMS, 0, 1),) if reads_more else (), 2),
        candidate=SideConfig((), 2),
        history_length=40,
        width=16,
        heads=2,
        levels=(level,),
        transitions=TransitionConfig(0, ITEMS, 5) if reads_more else None,
    )
    ranker = ElasticRanker(config).eval().requires_grad_(False)
    if ranker.transitions is not None:
        known = ranker.transitions
        known.neighbour_VM.copy_(torch.randint(0, ITEMS, known.neighbour_VM.shape))
        for counts in (known.count_VMG, known.out_VG, known.share_VG):
            counts.copy_(torch.rand(counts.shape) * 5)
    for parameter in ranker.parameters():
        if not parameter.any():
            parameter.normal_(std=0.3)
    return ranker


def levels(model: ElasticRanker, candidates: int, events: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(candidates * 100 + events)
    ids = torch.arange(ITEMS).unsqueeze(1)[:, : len(model.config.item.slots)]
    items = model.encode_items(ids, torch.randn(ITEMS, 2, generator=g))
    ints = torch.randint(0, ITEMS, (1, events), generator=g)
    request = RequestInputs(
        torch.zeros(1, 0, dtype=torch.int64), torch.randn(1, 2, generator=g), ints, ints % 2, ints, ints,
        torch.tensor([events]),
    )  # fmt: skip
    rows = torch.randint(0, ITEMS, (candidates,), generator=g)
    request_N = torch.zeros(candidates, dtype=torch.int64)
    some = CandidateInputs(
        rows, torch.zeros(candidates, 0, dtype=torch.int64), torch.randn(candidates, 2, generator=g), request_N
    )
    with torch.inference_mode():
        return model(request, items, some)


def int8_choices(ranker: ElasticRanker, dynamic: str = "head_mlp") -> dict[str, LayerChoice]:
    """Layers of the level in int8, those named with a scale a row; attention in bf16."""
    with observed(ranker) as seen:
        levels(ranker, 50, 30)
    return {
        name: LayerChoice(Format.BF16)
        if not isinstance(layer, torch.nn.Linear)
        else LayerChoice(Format.INT8_DYNAMIC)
        if dynamic in name
        else LayerChoice(Format.INT8_STATIC, seen[name].input_scale())
        for name, layer in layers_of(ranker).items()
        if name.startswith("experts.0.")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model in fp32, one in int8, the same compiled, and the cache: compiled once."""
    if compiler_missing():
        pytest.skip(compiler_missing())
    plain = small_ranker()
    choices = int8_choices(plain)
    served = in_formats(plain, choices)
    folder = tmp_path_factory.mktemp("cache") / "compiled"
    compiled = with_compiled_level(plain, served, 1, choices, FINGERPRINT, CompileCache(folder))
    return plain, choices, served, compiled, folder


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("candidates", "events"), [(0, 5), (1, 5), (2, 1), (3, 0), (7, 40), (40, 13), (1_025, 39)])
def test_compiled_agrees_with_eager_at_every_size(made: Any, candidates: int, events: int) -> None:
    plain, _, served, compiled, _ = made
    assert isinstance(compiled.experts[0], CompiledExpert)
    own, eager = levels(compiled, candidates, events)[-1], levels(served, candidates, events)[-1]
    assert own.shape == eager.shape == (candidates, 1)
    if candidates:
        full = levels(plain, candidates, events)[-1]
        of_eager, size = float((eager - full).norm()), float(full.norm())
        assert of_eager <= 0.2 * size, "int8 of random weights 16 wide, not nonsense"
        assert float((own - full).norm()) <= 2 * of_eager + 0.02 * size
        assert float((own - eager).norm()) <= 2 * of_eager + 0.02 * size


@pytest.mark.parametrize("reads_more", [False, True])
def test_the_graph_of_a_level_is_the_level(reads_more: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = small_ranker(reads_more=reads_more)
    expert, graph, calls = ranker.experts[0], LevelGraph(ranker.experts[0]), []  # type: ignore[arg-type]
    inner = expert.forward

    def compared(candidates: Any, view: Any, layout: Any, request_N: torch.Tensor, logits: torch.Tensor, *more: Any):
        found = inner(candidates, view, layout, request_N, logits, *more)
        monkeypatch.setattr(expert, "forward", inner)
        again = graph(*graph_inputs(graph, candidates, view, logits))
        monkeypatch.setattr(expert, "forward", compared)
        assert torch.equal(found[0], again[0]) and torch.equal(found[1].x_ND, again[1])
        calls.append(len(graph_inputs(graph, candidates, view, logits)))
        return found

    monkeypatch.setattr(expert, "forward", compared)
    levels(ranker, 9, 5)
    assert calls == [9 + 3 * reads_more], "crosses read two tensors more, transitions one"


def test_the_graphs_before_level_1_are_what_the_ranker_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, calls = small_ranker(reads_more=True), []
    first = FirstStatesGraph(ranker.candidate_features, ranker.candidate_start)
    side = RequestSideGraph(ranker.request_features, ranker.router)  # type: ignore[arg-type]
    assert not any("table" in name for name in (*first.state_dict(), *side.state_dict())), "an export holds no table"
    run_first, run_side = ranker.first_states.forward, ranker.request_side.forward

    def compared_first(features: Any, start: Any, item_NTD: torch.Tensor, inputs_NX: torch.Tensor) -> Any:
        found = run_first(features, start, item_NTD, inputs_NX)
        calls.append(all(map(torch.equal, found, first(item_NTD, inputs_NX))))
        return found

    def compared_side(features: Any, router: Any, summary_RD: torch.Tensor, inputs_RX: torch.Tensor) -> Any:
        tokens, user = found = run_side(features, router, summary_RD, inputs_RX)
        calls.append(all(map(torch.equal, (tokens, user.vector_RKD, user.bias_RK), side(summary_RD, inputs_RX))))
        return found

    monkeypatch.setattr(ranker.first_states, "forward", compared_first)
    monkeypatch.setattr(ranker.request_side, "forward", compared_side)
    levels(ranker, 9, 5)
    assert calls == [True, True]


@pytest.mark.slow
@needs_compiler
def test_the_request_s_side_is_compiled(tmp_path: Path) -> None:
    plain = small_ranker(reads_more=True)
    compiled = with_compiled_level(plain, plain, 0, {}, FINGERPRINT, CompileCache(tmp_path / "c"))
    assert isinstance(compiled.request_side, CompiledRequestSide)
    for candidates, events in ((0, 5), (1, 0), (40, 13)):
        for own, eager in zip(levels(compiled, candidates, events), levels(plain, candidates, events), strict=True):
            assert torch.allclose(own, eager, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@needs_compiler
def test_a_level_with_crosses_and_transitions_is_compiled(tmp_path: Path) -> None:
    plain = small_ranker(reads_more=True)
    compiled = with_compiled_level(plain, plain, 1, {}, FINGERPRINT, CompileCache(tmp_path / "c"))
    assert isinstance(compiled.experts[0], CompiledExpert)
    assert isinstance(compiled.first_states, CompiledFirstStates)
    for candidates, events in ((2, 5), (40, 13), (1_025, 39)):
        own, eager = levels(compiled, candidates, events)[-1], levels(plain, candidates, events)[-1]
        assert torch.allclose(own, eager, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("format", [Format.INT8_STATIC, Format.INT8_DYNAMIC])
@pytest.mark.parametrize("rows", [1, 2, 37])
def test_what_is_exported_computes_what_the_kernel_computes(format: Format, rows: int) -> None:
    torch.manual_seed(rows)
    layer = torch.nn.Sequential(torch.nn.Linear(48, 24, bias=False))
    choices = {"0": LayerChoice(format, 0.04 if format is Format.INT8_STATIC else None)}
    x_MK = torch.randn(rows, 48) * torch.logspace(-2, 2, rows).unsqueeze(1) ** (format is Format.INT8_DYNAMIC)
    with torch.inference_mode():
        exported, kernel, exact = compilable(layer, choices)(x_MK), in_formats(layer, choices)(x_MK), layer(x_MK)
    for own, quick, full in zip(exported, kernel, exact, strict=True):  # rows differ a thousandfold in size
        rounding = float((quick - full).norm())
        assert 1e-4 * float(full.norm()) < rounding < 0.1 * float(full.norm()), "the control: it is rounded"
        assert float((own - quick).norm()) <= 0.3 * rounding, "a value at the half may go either way"


@pytest.mark.slow
@needs_compiler
def test_the_compiled_code_is_used(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = made[3]
    calls: list[int] = []
    inner = compiled.experts[0]._compiled
    monkeypatch.setattr(compiled.experts[0], "_compiled", lambda *given: calls.append(1) or inner(*given))
    levels(compiled, 1, 5)
    assert not calls, "one candidate runs eagerly"
    levels(compiled, 9, 5)
    assert len(calls) == 1


@pytest.mark.slow
@needs_compiler
def test_a_score_does_not_depend_on_the_other_candidates(made: Any) -> None:
    _, _, _, compiled, _ = made
    whole = levels(compiled, 33, 12)[-1]
    inner, experts = compiled.experts[0], compiled.experts
    given: list[Any] = []
    first = inner._compiled
    inner._compiled = lambda *parts: given.append(parts) or first(*parts)
    levels(compiled, 33, 12)
    inner._compiled = first
    tokens, x, logits, *rest = given[0]
    for rows in (slice(0, 2), slice(5, 12), slice(20, 33)):
        few = experts[0]._compiled(tokens[rows].contiguous(), x[rows].contiguous(), logits[rows].contiguous(), *rest)
        assert float((few[0] - whole[rows]).abs().max()) <= 0.01 * float(whole.abs().max())


@pytest.mark.slow
@needs_compiler
def test_a_second_process_loads_without_compiling(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, choices, served, compiled, folder = made
    monkeypatch.setattr("depthrank.engine.compiled_levels._package", pytest.fail)
    monkeypatch.setenv("PATH", "/nonexistent")
    again = with_compiled_level(plain, served, 1, choices, FINGERPRINT, CompileCache(folder))
    assert isinstance(again.experts[0], CompiledExpert)
    assert again.experts[0]._compiled is compiled.experts[0]._compiled, "a library stays mapped: once a process"


@pytest.mark.parametrize("spoil", ["damaged", "without a seal", "another's seal", "another key's file", "a link"])
def test_what_was_not_made_here_is_removed_and_never_executed(tmp_path: Path, spoil: str) -> None:
    folder, key = tmp_path / "another's", "a" * 32

    def built(path: Path) -> None:
        path.write_bytes(b"code" * 1_000)

    code = CompileCache(folder).make(key, built)
    own = CompileCache(tmp_path / "own")
    path = own.make(key, built)
    assert own.find(key) == path, "the control: a file of one's own is found"
    seal = path.with_suffix(SEAL)
    if spoil == "damaged":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif spoil == "without a seal":
        seal.unlink()
    elif spoil == "another's seal":
        seal.write_bytes(code.with_suffix(SEAL).read_bytes())
    elif spoil == "another key's file":
        other = "f" * 32
        path.rename(own.folder / f"{other}.pt2")
        seal.rename(own.folder / f"{other}{SEAL}")
        key = other
    else:
        path.unlink()
        path.symlink_to(code)
    assert own.find(key) is None
    assert not (own.folder / f"{key}.pt2").exists() and code.exists()


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ArtifactError, match=r"may be written by others, and compiled code in that folder is executed"):
        CompileCache(folder)
    folder.chmod(0o700)
    CompileCache(folder)
    (folder / "secret").chmod(0o666)
    with pytest.raises(ArtifactError, match="secret may be written by others"):
        CompileCache(folder)


def test_without_a_compiler_the_level_stays_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = small_ranker()
    choices = int8_choices(plain)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ArtifactError, match=r"no C\+\+ compiler on PATH"):
        with_compiled_level(plain, in_formats(plain, choices), 1, choices, FINGERPRINT, CompileCache(tmp_path / "c"))


def test_a_format_without_a_compiled_form_is_told(tmp_path: Path) -> None:
    plain = small_ranker()
    choices = {"experts.0.pool": LayerChoice(Format.FP8_EMULATED)}
    with pytest.raises(ArtifactError, match="pool runs in fp8-emulated, which has no compiled form"):
        with_compiled_level(plain, in_formats(plain, choices), 1, choices, FINGERPRINT, CompileCache(tmp_path / "c"))


def test_the_default_folder_is_the_user_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEPTHRANK_COMPILED", str(tmp_path / "named"))
    assert CompileCache().folder == tmp_path / "named"
    monkeypatch.delenv("DEPTHRANK_COMPILED")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = CompileCache().folder
    assert made == tmp_path / "depthrank" / "compiled"
    assert os.stat(made).st_mode & 0o077 == 0

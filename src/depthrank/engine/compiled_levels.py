"""Levels as compiled code (AOTInductor), where the policy says that it is faster here; else, and for 0 or 1
candidates, eager. Level 1 brings the candidates' first states with it, which are made when it begins; level 0 is the
request's own side: its products over candidates are few and large.

A level is exported once with any number of candidates (2 and more) and any length of history, in the formats of the
policy. Rounding and sums are the formats' own; what fuses is everything around the products. Without a C++ compiler,
and where compiled and eager disagree, the level runs eagerly with the same answers, and says so.

Legend: N candidates, P history positions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from blake3 import blake3
from torch import Tensor, nn

from depthrank.artifact import Artifact, model_identity
from depthrank.errors import ArtifactError
from depthrank.kernels import CompileCache
from depthrank.kernels.ahead import make_package
from depthrank.kernels.build import compiler_missing
from depthrank.model import CandidateLayout, CandidateState, ElasticRanker
from depthrank.model.expert import Expert, RequestView
from depthrank.model.feature_tokens import FeatureTokens
from depthrank.model.first_states import FirstStates, FirstStatesGraph
from depthrank.model.level_graph import LevelGraph, exportable, graph_inputs
from depthrank.model.request_side import RequestSide, RequestSideGraph
from depthrank.model.router import Router, UserVector
from depthrank.model.transitions import NUM_SIGNALS
from depthrank.precision import LayerChoice, layers_of
from depthrank.precision.compilable import compilable
from depthrank.precision.in_formats import replaced

VERSION = 6  # of the exported graphs: another one compiles again
TRIED = ((5, 3), (40, 17))  # candidates and positions at which compiled and eager must agree
MOST_CANDIDATES = 1 << 16
TOLERANCE = 0.03  # relative; where eager itself is farther from fp32 than this, twice as far as eager is
MOST_LOADED = 32  # packages that a model which comes back finds
Compiled = Callable[..., Any]

logger = logging.getLogger("depthrank.engine")


class CompiledExpert(nn.Module):
    """A level that runs compiled for one request with two candidates or more, and eagerly otherwise."""

    def __init__(self, eager: Expert, compiled: Compiled) -> None:
        super().__init__()
        self.eager = eager
        self._graph = [LevelGraph(eager)]  # not a submodule
        self._compiled = compiled
        self.reads, self.depth = eager.reads, eager.depth
        self.depth_of, self.reads_of_step = eager.depth_of, eager.reads_of_step

    def forward(
        self,
        candidates: CandidateState,
        view: RequestView,
        layout: CandidateLayout,
        request_of_candidate_N: Tensor,
        logits_before_NK: Tensor,
        num_reads: int | None = None,
    ) -> tuple[Tensor, CandidateState]:
        """As ``Expert.forward``."""
        several = layout.num_requests == 1 and layout.num_candidates > 1 and view.age_RP.shape[1] > 1
        if not several or layout.num_candidates > MOST_CANDIDATES or num_reads not in (None, len(self.reads)):
            return self.eager(candidates, view, layout, request_of_candidate_N, logits_before_NK, num_reads)  # type: ignore[no-any-return]
        given = [part.contiguous() for part in graph_inputs(self._graph[0], candidates, view, logits_before_NK)]
        refined_NK, x_ND = self._compiled(*given)
        return refined_NK, replace(candidates, x_ND=x_ND)


class CompiledFirstStates(nn.Module):
    """First states that are made by compiled code for two candidates or more, and eagerly otherwise."""

    def __init__(self, compiled: Compiled) -> None:
        super().__init__()
        self._compiled, self._eager = compiled, FirstStates()

    def forward(
        self, features: FeatureTokens, start: nn.Module, item_NTD: Tensor, inputs_NX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``FirstStates.forward``."""
        if not 1 < item_NTD.shape[0] <= MOST_CANDIDATES:
            return self._eager(features, start, item_NTD, inputs_NX)  # type: ignore[no-any-return]
        tokens_NTD, x_ND = self._compiled(item_NTD.contiguous(), inputs_NX.contiguous())
        return tokens_NTD, x_ND


class CompiledRequestSide(nn.Module):
    """The request's side by compiled code for one request, and eagerly for several."""

    def __init__(self, compiled: Compiled) -> None:
        super().__init__()
        self._compiled, self._eager = compiled, RequestSide()

    def forward(
        self, features: FeatureTokens, router: Router, summary_RD: Tensor, inputs_RX: Tensor
    ) -> tuple[Tensor, UserVector]:
        """As ``RequestSide.forward``."""
        if summary_RD.shape[0] != 1:
            return self._eager(features, router, summary_RD, inputs_RX)  # type: ignore[no-any-return]
        tokens_RTD, vector_RKD, bias_RK = self._compiled(summary_RD.contiguous(), inputs_RX.contiguous())
        return tokens_RTD, UserVector(vector_RKD, bias_RK)


def with_compiled_levels(artifact: Artifact, cache: CompileCache | None = None) -> Artifact:
    """The artifact with the levels compiled that its policy names; those that cannot be stay eager, with a warning."""
    precision = artifact.precision
    if precision is None or precision.policy is None or not precision.policy.compiled:
        return artifact
    policy, plain = precision.policy, artifact.trained or artifact.model
    done: list[int] = []
    model = artifact.model
    for level in policy.compiled:
        try:
            model = with_compiled_level(plain, model, level, policy.choices, policy.fingerprint, cache)
            done.append(level)
        except ArtifactError as error:
            logger.warning("level %d runs uncompiled, with the same answers: %s", level, error)
    policy = replace(policy, compiled=tuple(done))
    return replace(artifact, model=model, precision=replace(precision, policy=policy))


def with_compiled_level(
    plain: ElasticRanker,
    served: ElasticRanker,
    level: int,
    choices: Mapping[str, LayerChoice],
    fingerprint: str,
    cache: CompileCache | None = None,
) -> ElasticRanker:
    """``served`` with one level compiled, from the cache or anew. ``plain``: the same model in fp32.

    Raises ArtifactError where it has no compiled form, there is no compiler, or the two do not agree.
    """
    work = _Compilation(plain, served, choices, fingerprint, cache or CompileCache())
    if level == 0:
        return replaced(served, {"request_side": CompiledRequestSide(work.request_side()).eval()})
    parts: dict[str, nn.Module] = {f"experts.{level - 1}": work.level(level)}
    if level == 1 and plain.config.foreign_at(0) is None:
        parts["first_states"] = CompiledFirstStates(work.first_states())
    return replaced(served, {name: part.eval() for name, part in parts.items()})


@dataclass(frozen=True)
class _Compilation:
    """Parts of a model made into compiled code, in the formats of ``choices``, and compared with their eager form in
    ``served``. Raises ArtifactError."""

    plain: ElasticRanker
    served: ElasticRanker
    choices: Mapping[str, LayerChoice]
    fingerprint: str
    cache: CompileCache

    def level(self, level: int) -> CompiledExpert:
        """A level beyond the router."""
        name = f"experts.{level - 1}"
        expert, eager = (model.get_submodule(name) for model in (self.plain, self.served))
        if reason := exportable(expert):
            raise ArtifactError(reason)
        own = {n.removeprefix(f"{name}."): c for n, c in self.choices.items() if n.startswith(f"{name}.")}
        exact, inputs = cast(Expert, expert), _of_level(level)
        made = self._made(LevelGraph(compilable(exact, own)), inputs, own)
        _check(made, LevelGraph(cast(Expert, eager)), LevelGraph(exact), self.plain, inputs)
        return CompiledExpert(cast(Expert, eager), made)

    def first_states(self) -> Compiled:
        """What is run before level 1."""
        models = (self.plain, self.served)
        exact, eager = (FirstStatesGraph(model.candidate_features, model.candidate_start) for model in models)
        return self._part(exact, eager, _OF_FIRST_STATES)

    def request_side(self) -> Compiled:
        """What is run once a request for the router."""
        if not isinstance(self.plain.router, Router):
            raise ArtifactError("it is a foreign module")
        models = (self.plain, self.served)
        exact, eager = (RequestSideGraph(model.request_features, cast(Router, model.router)) for model in models)
        return self._part(exact, eager, _OF_REQUEST)

    def _part(self, exact: nn.Module, eager: nn.Module, inputs: Inputs) -> Compiled:
        """A graph whose layers have the ranker's own names."""
        layers = layers_of(exact)
        own = {name: choice for name, choice in self.choices.items() if name in layers}
        made = self._made(compilable(exact, own), inputs, own)
        _check(made, eager, exact, self.plain, inputs)
        return made

    def _made(self, graph: nn.Module, inputs: Inputs, own: Mapping[str, LayerChoice]) -> Compiled:
        """The graph's compiled code, from the cache or anew."""
        key = _key(self.plain, inputs.name, own, self.fingerprint)
        path = self.cache.find(key)
        if path is None:
            if missing := compiler_missing():
                raise ArtifactError(missing)
            logger.info("compiling %s; it takes a while, once", inputs.name)
            path = self.cache.make(key, lambda unfinished: _package(graph.eval(), self.plain, inputs, unfinished))
        return _loaded(str(path))


@lru_cache(maxsize=MOST_LOADED)
def _loaded(path: str) -> Compiled:
    """The package, loaded once a process: its library stays mapped for good, also when nothing runs it any more."""
    return cast(Compiled, torch._inductor.aoti_load_package(path))


def _key(plain: ElasticRanker, name: str, own: Mapping[str, LayerChoice], fingerprint: str) -> str:
    """Of the model, the part's formats, the machine (torch and ISA are in its fingerprint), and threads."""
    formats = {name: [str(choice.format), choice.input_scale] for name, choice in own.items()}
    process = [torch.get_num_threads(), torch.get_float32_matmul_precision()]
    told = [VERSION, model_identity(plain), name, formats, fingerprint, process]
    return blake3(msgspec.json.encode(told, order="deterministic")).hexdigest()[:32]


def _package(graph: nn.Module, model: ElasticRanker, inputs: Inputs, path: Path) -> None:
    """Export and compile; everything that varies from request to request is a dynamic size."""
    given = inputs.example(model, *TRIED[-1])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own code
        program = torch.export.export(graph, tuple(given), dynamic_shapes=inputs.sizes(model), strict=False)
        make_package(program, path, freezing=True)


@dataclass(frozen=True)
class Inputs:
    """What a compiled part is called with: made-up tensors for N candidates and P positions, and which of their sizes
    vary."""

    name: str
    example: Callable[[ElasticRanker, int, int], list[Tensor]]
    sizes: Callable[[ElasticRanker], tuple[Any, ...]]


def _rows() -> Any:
    return torch.export.Dim("candidates", min=2, max=MOST_CANDIDATES)


def _of_level(level: int) -> Inputs:
    def sizes(model: ElasticRanker) -> tuple[Any, ...]:
        graph = LevelGraph(cast(Expert, model.experts[level - 1]))
        rows, most = {0: _rows()}, max(4, model.config.num_positions)
        positions = torch.export.Dim("positions", min=2, max=most)
        more = (*((rows, None) if graph.has_crosses else ()), *((rows,) if graph.has_signals else ()))
        pairs = ({2: positions},) * (2 * len(graph.layers))
        return (rows, rows, rows, None, {1: positions}, {1: positions}, None, (*more, *pairs))

    return Inputs(f"level {level}", lambda model, n, positions: _example(model, level, n, positions), sizes)


def _example(model: ElasticRanker, level: int, n: int, positions: int) -> list[Tensor]:
    """Made-up inputs of the right shapes; with a seed of their own, so that nobody's draws change."""
    graph = LevelGraph(cast(Expert, model.experts[level - 1]))
    config, g = model.config, torch.Generator().manual_seed(n)
    positions = min(positions, config.num_positions - 1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    width, cross = config.width // config.heads, graph.expert.cross
    crossed = () if cross is None else (random(n, cross.num_candidate), random(1, cross.num_request))
    return [
        random(n, config.item_tokens + config.candidate_tokens, config.width),
        random(n, config.level_width(level - 1)),
        random(n, len(config.tasks)),
        random(1, config.request_tokens + 1, config.width),
        torch.randint(0, 9, (1, positions), generator=g),
        torch.ones(1, positions, dtype=torch.bool),
        torch.tensor([positions - 1]),
        *crossed,
        *((random(n, NUM_SIGNALS),) if graph.has_signals else ()),
        *(random(1, config.heads, positions, width) for _ in range(2 * len(graph.layers))),
    ]


def _first_example(model: ElasticRanker, n: int, positions: int) -> list[Tensor]:
    config, g = model.config, torch.Generator().manual_seed(n)
    shapes = ((n, config.item_tokens, config.width), (n, model.candidate_features.num_inputs))
    return [torch.randn(shape, generator=g) for shape in shapes]


def _request_example(model: ElasticRanker, n: int, positions: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(n)
    return [torch.randn(1, width, generator=g) for width in (model.config.width, model.request_features.num_inputs)]


_OF_REQUEST = Inputs("the request's side", _request_example, lambda model: (None, None))
_OF_FIRST_STATES = Inputs("first states", _first_example, lambda model: ({0: (rows := _rows())}, {0: rows}))


@torch.inference_mode()
def _check(compiled: Compiled, eager: nn.Module, plain: nn.Module, model: ElasticRanker, inputs: Inputs) -> None:
    """Raise ArtifactError where compiled and eager are not equally good forms of the part in fp32."""
    for n, positions in TRIED:
        given = inputs.example(model, n, positions)
        for own, rounded, exact in zip(compiled(*given), eager.eval()(*given), plain.eval()(*given), strict=True):
            error, allowed = _distance(own, rounded), max(TOLERANCE, 2 * _distance(rounded, exact))
            if not error <= allowed:
                raise ArtifactError(f"compiled and eager differ by {error:.1e} at {n} candidates: a fault of torch")


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-9))

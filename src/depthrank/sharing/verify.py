"""Checks before a shared model is handed out: rows are independent, and both forms agree.

The original is compared in its own precision; the algebra is compared in double precision, where a wrong rewrite
cannot hide in rounding. Inputs are drawn from the example's own values, so ids stay valid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, fx, nn
from torch.utils import _pytree as pytree

from depthrank.errors import SharingError
from depthrank.sharing.calls import group_slots
from depthrank.sharing.compiler import NormalForm
from depthrank.sharing.inputs import ModuleInputs, Sides, join_pairs, split_pairs
from depthrank.sharing.ir import Graph, Region, map_nodes
from depthrank.sharing.layout import BATCH, Layout
from depthrank.sharing.normal_form.reader import FAULT, FAULTS
from depthrank.sharing.operators import Rows, run_node
from depthrank.sharing.program import Program
from depthrank.sharing.refusal import Refused

TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-9
_WIDER = {
    torch.float32: torch.float64, torch.bfloat16: torch.float64, torch.float16: torch.float64,
    torch.complex64: torch.complex128,
}  # fmt: skip
CASES = ((1, 7), (3, 11), (1, 1), (4, 2))  # (requests, candidates)


@dataclass(frozen=True)
class Draw:
    """Inputs of one check."""

    request: dict[str, Tensor]
    candidate: dict[str, Tensor]
    request_of_candidate: Tensor
    name: str


def draw_inputs(
    inputs: ModuleInputs, sides: Sides, num_requests: int, num_candidates: int, seed: int, padded: bool = False
) -> Draw:
    """Rows mixed from the example column by column; ``padded`` sets integer histories of the request to zero."""
    generator = Generator().manual_seed(seed)
    request, candidate = split_pairs(sides, inputs.example)
    index = torch.randint(num_requests, (num_candidates,), generator=generator)
    r = {n: _sample(t, num_requests, generator) for n, t in request.items()}
    c = {n: _sample(t, num_candidates, generator) for n, t in candidate.items()}
    if padded:
        r = {
            n: torch.zeros_like(t) if t.dim() > 1 and not t.is_floating_point() and int(t.min()) >= 0 else t
            for n, t in r.items()
        }
    name = f"{num_requests} request(s) x {num_candidates} candidate(s)" + (", all-padding histories" if padded else "")
    device = next(iter(inputs.example.values())).device
    return Draw(r, c, index.to(device), name)


def _sample(tensor: Tensor, rows: int, generator: Generator) -> Tensor:
    """Each column's values in a new order; real numbers move by a little noise, ids stay."""
    flat = tensor.detach().cpu().reshape(tensor.shape[0], -1)
    pick = torch.randint(flat.shape[0], (rows, flat.shape[1]), generator=generator)
    out = torch.gather(flat, 0, pick)
    if tensor.is_floating_point():
        real = (flat != flat.round()).any(dim=0)
        noise = 0.3 * torch.randn(out.shape, generator=generator, dtype=torch.float32).to(out.dtype)
        out = torch.where(real, out + noise * (flat.std(dim=0, unbiased=False) + 0.1), out)
    return out.reshape(rows, *tensor.shape[1:]).to(tensor.device)


def tensors_of(output: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]


def distance(found: Tensor, expected: Tensor) -> float:
    """max |a - b| / max(1, max |b|); equal infinities and NaNs count as equal."""
    if found.numel() != expected.numel():
        return float("inf")
    a, b = found.detach().double().flatten(), expected.detach().double().flatten()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    difference = torch.where(same, torch.zeros_like(a), (a - b).abs())
    finite = b[b.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    worst = float(difference.max())
    return float("inf") if worst != worst else worst / scale


class Differs(SharingError):
    """The shared form fails, or differs from the original (``by`` so much): a fault of the compiler."""

    by: float = float("inf")


@dataclass
class Equality:
    """What the comparison with the original found."""

    worst: float = 0.0
    varies: bool = False  # did any output vary over the rows?
    compared: int = 0
    skipped: list[str] = field(default_factory=list)  # draws on which the original itself raises


def tolerance(graph: Graph) -> float:
    """1e-5; where the model itself computes in half precision, four units of that precision."""
    dtypes = {n.dtype for n in graph.live() if n.dtype.is_floating_point and n.dtype.itemsize == 2}
    return max([TOLERANCE, *(4 * torch.finfo(d).eps for d in dtypes)])


def rows_lead(form: NormalForm) -> tuple[bool | None, ...]:
    """For every output tensor: are rows its first dimension? None if they stand elsewhere, False if it has none."""
    out: list[bool | None] = []
    for layout in form.layouts:
        if isinstance(layout, Layout):
            first = layout.groups[0] if layout.groups else ()
            out.append(False if layout.batch_dim is None else True if first[:1] == (BATCH,) else None)
    return tuple(out)


def run_original(
    module: nn.Module, inputs: ModuleInputs, sides: Sides, draw: Draw, lead: Sequence[bool | None]
) -> list[Tensor]:
    """The module on replicated rows; one candidate is scored as one of two, since many models cannot score one."""
    pairs = join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate)
    alone = draw.request_of_candidate.shape[0] == 1 and None not in lead
    if alone:
        pairs = {n: torch.cat([t, t]) for n, t in pairs.items()}
    args, kwargs = inputs.arguments(pairs)
    with torch.no_grad():
        out = tensors_of(module(*args, **kwargs))
        if any(t.is_floating_point() and bool(t.isnan().any()) for t in out) and has_fused_encoder(module):
            with without_fused_encoder():
                own = tensors_of(module(*args, **kwargs))
            out = [torch.where(t.isnan(), u, t) for t, u in zip(out, own)]
    return [t[: t.shape[0] // 2] if alone and own else t for t, own in zip(out, lead)]


def has_fused_encoder(module: nn.Module) -> bool:
    """May torch run a part of this module by its fused encoder kernel when there are no gradients?"""
    enabled: bool = torch.backends.mha.get_fastpath_enabled()
    return enabled and any(isinstance(m, nn.TransformerEncoderLayer) for m in module.modules())


@contextlib.contextmanager
def without_fused_encoder() -> Iterator[None]:
    """The encoder as it runs with gradients; the fused kernel answers NaN for a row that is all padding."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def check_rows_independent(module: nn.Module, inputs: ModuleInputs, sides: Sides, lead: Sequence[bool | None]) -> None:
    """Raises ``Refused`` if a row of the original's output depends on the other rows of its input."""
    error: Exception | None = None
    for seed in (11, 12, 13):
        try:
            return _check_rows_of(draw_inputs(inputs, sides, 8, 8, seed), module, inputs, sides, lead)
        except FAULTS as fault:
            if isinstance(fault, Refused):
                raise
            error = fault
    what = f"{type(error).__name__}: {error}"
    raise SharingError(f"the original could not be run on rows drawn from the example: {what}") from error


def _check_rows_of(
    draw: Draw, module: nn.Module, inputs: ModuleInputs, sides: Sides, lead: Sequence[bool | None]
) -> None:
    whole = run_original(module, inputs, sides, draw, lead)
    for chosen in ([6, 1, 3], [7, 6, 5, 4, 3, 2, 1, 0], [2, 2, 5]):
        pick = torch.tensor(chosen, device=draw.request_of_candidate.device)
        part = Draw(draw.request, {n: t[pick] for n, t in draw.candidate.items()}, draw.request_of_candidate[pick], "")
        for a, b, own in zip(run_original(module, inputs, sides, part, lead), whole, lead):
            if own and distance(a, b.reshape(8, -1)[pick]) > 20 * TOLERANCE:
                raise Refused(
                    "scores of a row change with the other rows of the batch (an operation mixes rows)",
                    "the module's output",
                )


def check_equal(
    run: Callable[[Draw], list[Tensor]],
    module: nn.Module,
    inputs: ModuleInputs,
    sides: Sides,
    draws: Sequence[Draw],
    lead: Sequence[bool | None],
    allowed: float = TOLERANCE,
) -> Equality:
    """Worst relative difference from the original over the draws; raises ``Differs`` beyond ``allowed``."""
    found = Equality()
    for draw in draws:
        try:
            expected = run_original(module, inputs, sides, draw, lead)
        except FAULTS as error:
            found.skipped.append(f"{draw.name}: the original raises {type(error).__name__}")
            continue
        try:
            ours = run(draw)
        except FAULTS as error:
            raise Differs(f"the shared form fails on {draw.name}: {type(error).__name__}: {error}; {FAULT}") from error
        if len(ours) != len(expected):
            raise Differs(f"the shared form returns {len(ours)} tensors, the original {len(expected)}; {FAULT}")
        found.compared += 1
        for a, b in zip(ours, expected):
            error_here = distance(a, b) if a.shape == b.shape else float("inf")
            found.worst = max(found.worst, error_here)
            found.varies |= b.shape[:1].numel() > 1 and b.is_floating_point() and float(b.double().std()) > 0
            if error_here > allowed:
                fault = Differs(
                    f"the shared form differs from the original by {error_here:.1e} (allowed {allowed:.0e}) "
                    f"on {draw.name}; {FAULT}"
                )
                fault.by = error_here
                raise fault
    if not found.compared:
        raise SharingError(f"the original could not be run on rows drawn from the example: {found.skipped[0]}")
    return found


class _Double(fx.Interpreter):
    """The captured graph with every single-precision number in double precision."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        widen = lambda v: _WIDER[v] if _is_narrow(v) else v  # noqa: E731
        if target is torch.ops.aten.view.default:  # strides in double precision may be other ones
            target = torch.ops.aten.reshape.default
        run = super().call_function
        if not tensors_of((args, kwargs)):  # made of numbers alone: as the model makes it
            return _wide(run(target, args, kwargs))
        return _exact(lambda a: run(target, a, pytree.tree_map(widen, kwargs)), pytree.tree_map(widen, args))


def _wide(value: Any) -> Any:
    """Single precision becomes double: in tensors made from nothing, too."""
    if isinstance(value, (tuple, list)):
        return type(value)(_wide(v) for v in value)
    return value.to(_WIDER[value.dtype]) if isinstance(value, Tensor) and value.dtype in _WIDER else value


def _exact(run: Callable[[Any], Any], args: Any) -> Any:
    """A result in double precision; one that integers were brought to single precision for is computed again."""
    out = run(args)
    tensors = tensors_of(args)
    born_of_integers = bool(tensors) and not any(t.is_floating_point() or t.is_complex() for t in tensors)
    if born_of_integers and any(t.dtype in _WIDER for t in tensors_of(out)):
        out = run(pytree.tree_map(lambda v: v.double() if isinstance(v, Tensor) else v, args))
    return _wide(out)


def run_captured_in_double(form: NormalForm, pairs: Mapping[str, Tensor]) -> list[Tensor]:
    """The model's own graph over pairs, in double precision."""
    captured = form.captured
    graph_module = captured.program.graph_module
    feed = []
    for node in (n for n in graph_module.graph.nodes if n.op == "placeholder"):
        if node.name in captured.inputs:
            feed.append(_wide(pairs[captured.inputs[node.name]]))
        elif node.name in captured.tensors:
            feed.append(_wide(captured.tensors[node.name][1].detach()))
        else:
            feed.append(node.meta.get("val"))
    with torch.no_grad():
        return tensors_of(_Double(graph_module).run(*feed))


def run_program_in_double(program: Program, draw: Draw) -> list[Tensor]:
    """The shared graph in double precision, node by node."""
    num_requests = next((t.shape[0] for t in draw.request.values()), 1)
    index = draw.request_of_candidate
    rows = Rows(single=num_requests == 1, like=next(iter(draw.candidate.values())), request_of_candidate=index)
    if num_requests > 1:
        rows.slots, rows.slot_of = group_slots(index, num_requests)
    values: dict[int, Any] = {}
    with torch.no_grad():
        for node in program.graph.live():
            if node.op == "parameter":
                values[node.index] = _wide(program.graph.constants[node.name].detach())
            elif node.op == "input":
                side = draw.request if node.region == Region.REQUEST else draw.candidate
                values[node.index] = _wide(side[node.name])
            else:
                wide = _in_double(node)
                args = map_nodes(node.args, lambda n: values[n.index])
                values[node.index] = _exact(partial(run_node, wide, rows), args)
    return [values[n.index] for n in program.graph.outputs]


def _in_double(node: Any) -> Any:
    if not any(_is_narrow(v) for _, v in node.kwargs):
        return node
    from dataclasses import replace

    return replace(node, kwargs=tuple((k, _WIDER[v] if _is_narrow(v) else v) for k, v in node.kwargs))


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in _WIDER


def check_algebra(form: NormalForm, program: Program, sides: Sides, draws: Sequence[Draw]) -> float:
    """Worst relative difference in double precision; raises ``SharingError`` beyond ``DOUBLE_TOLERANCE``."""
    worst = 0.0
    for draw in draws:
        if draw.request_of_candidate.shape[0] < 2:
            continue
        pairs = join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate)
        expected = run_captured_in_double(form, pairs)
        for a, b in zip(run_program_in_double(program, draw), expected):
            error = distance(a, b)
            worst = max(worst, error)
            if error > DOUBLE_TOLERANCE:
                raise Differs(
                    f"the shared form differs from the original by {error:.1e} in double precision on {draw.name}; "
                    f"{FAULT}"
                )
    return worst


def own_rounding(
    module: nn.Module, inputs: ModuleInputs, sides: Sides, form: NormalForm, draws: Sequence[Draw]
) -> float:
    """How far the original itself is from its own graph in double precision, at worst over the draws."""
    worst, lead = 0.0, rows_lead(form)
    for draw in draws:
        if draw.request_of_candidate.shape[0] < 2:
            continue
        pairs = join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate)
        try:
            own = run_original(module, inputs, sides, draw, lead)
        except FAULTS:
            continue
        worst = max([worst, *(distance(a, b) for a, b in zip(own, run_captured_in_double(form, pairs)))])
    return worst

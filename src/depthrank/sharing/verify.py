"""Checks before a shared model is handed out: rows are independent, and both forms agree.

The original is compared in its own precision; the algebra is compared in double precision, where a wrong rewrite
cannot hide in rounding. Inputs are drawn from the example's own values, so ids stay valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, fx, nn
from torch.utils import _pytree as pytree

from depthrank.errors import SharingError
from depthrank.sharing.calls import group_slots
from depthrank.sharing.compiler import NormalForm
from depthrank.sharing.inputs import ModuleInputs, Sides, join_pairs, split_pairs
from depthrank.sharing.ir import Region, map_nodes
from depthrank.sharing.operators import Rows, run_node
from depthrank.sharing.program import Program
from depthrank.sharing.refusal import Refused

TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-9
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


def run_original(module: nn.Module, inputs: ModuleInputs, sides: Sides, draw: Draw) -> list[Tensor]:
    """The module on replicated rows; one candidate is scored as one of two, since many models cannot score one."""
    pairs = join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate)
    alone = draw.request_of_candidate.shape[0] == 1
    if alone:
        pairs = {n: torch.cat([t, t]) for n, t in pairs.items()}
    args, kwargs = inputs.arguments(pairs)
    with torch.no_grad():
        out = tensors_of(module(*args, **kwargs))
    return [t[: t.shape[0] // 2] if alone and t.dim() else t for t in out]


def check_rows_independent(module: nn.Module, inputs: ModuleInputs, sides: Sides) -> None:
    """Raises ``Refused`` if a row of the original's output depends on the other rows of its input."""
    draw = draw_inputs(inputs, sides, 8, 8, seed=11)
    whole = run_original(module, inputs, sides, draw)
    for chosen in ([6, 1, 3], [7, 6, 5, 4, 3, 2, 1, 0], [2, 2, 5]):
        pick = torch.tensor(chosen, device=draw.request_of_candidate.device)
        part = Draw(draw.request, {n: t[pick] for n, t in draw.candidate.items()}, draw.request_of_candidate[pick], "")
        for a, b in zip(run_original(module, inputs, sides, part), whole):
            if b.dim() == 0 or b.shape[0] % 8:
                continue
            rows = b.reshape(8, -1)[pick]
            if distance(a, rows) > 20 * TOLERANCE:
                raise Refused(
                    "scores of a row change with the other rows of the batch (an operation mixes rows)",
                    "the module's output",
                )


def check_equal(
    run: Callable[[Draw], list[Tensor]], module: nn.Module, inputs: ModuleInputs, sides: Sides, draws: Sequence[Draw]
) -> tuple[float, bool]:
    """Worst relative difference from the original over the draws, and whether outputs vary at all."""
    worst, varies = 0.0, False
    for draw in draws:
        expected = run_original(module, inputs, sides, draw)
        found = run(draw)
        if len(found) != len(expected):
            raise SharingError(f"the shared form returns {len(found)} tensors, the original {len(expected)}")
        for a, b in zip(found, expected):
            error = distance(a, b)
            worst = max(worst, error)
            varies = varies or (b.shape[:1].numel() > 1 and b.is_floating_point() and float(b.double().std()) > 0)
            if error > TOLERANCE:
                raise SharingError(
                    f"the shared form differs from the original by {error:.1e} (allowed {TOLERANCE}) on {draw.name}; "
                    "a fault of the compiler: report the model, and use the original meanwhile"
                )
    return worst, varies


class _Double(fx.Interpreter):
    """The captured graph with every single-precision number in double precision."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        widen = lambda v: torch.float64 if v is torch.float32 else v  # noqa: E731
        return super().call_function(target, pytree.tree_map(widen, args), pytree.tree_map(widen, kwargs))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype == torch.float32 else tensor


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
                values[node.index] = run_node(wide, rows, map_nodes(node.args, lambda n: values[n.index]))
    return [values[n.index] for n in program.graph.outputs]


def _in_double(node: Any) -> Any:
    if not any(v is torch.float32 for _, v in node.kwargs):
        return node
    from dataclasses import replace

    return replace(node, kwargs=tuple((k, torch.float64 if v is torch.float32 else v) for k, v in node.kwargs))


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
                raise SharingError(
                    f"the shared form differs from the original by {error:.1e} in double precision on {draw.name}; "
                    "a fault of the compiler: report the model, and use the original meanwhile"
                )
    return worst

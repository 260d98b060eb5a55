"""What sharing did to a model, in words and in numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from depthrank.sharing.compiler import NormalForm
from depthrank.sharing.cost import Work, sharing_pays, work_by_region
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.operators import flops_per_row
from depthrank.sharing.program import Program
from depthrank.sharing.sharer import Decision, Sharer


@dataclass(frozen=True)
class Line:
    """One kind of decision: which rewrite, how often, where, and why not if it was declined."""

    rewrite: str
    times: int
    sources: tuple[str, ...]
    reason: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A request-side value that is written out for every candidate."""

    what: str
    source: str
    why: str
    bytes_per_candidate: int


@dataclass(frozen=True)
class Remaining:
    """A product that every candidate still pays for."""

    operation: str
    source: str
    flops_per_candidate: int
    item_only: bool  # bind() removes it
    why: str


@dataclass
class Report:
    """Read it as text (``str``), as JSON (``to_json``), or by field. FLOPs are those of matrix products."""

    request_inputs: tuple[str, ...]
    candidate_inputs: tuple[str, ...]
    flops_per_pair: int
    flops_per_request: int
    flops_per_candidate: int
    bound_flops_per_request: int
    bound_flops_per_candidate: int
    bytes_per_pair: int
    bytes_per_request: int
    bytes_per_candidate: int
    frontier_bytes: int  # request-side values that candidates read: the state worth keeping
    pays: bool
    seconds_before: float
    seconds_after: float
    weighed_at: int
    applied: list[Line] = field(default_factory=list)
    declined: list[Line] = field(default_factory=list)
    written_out: list[Written] = field(default_factory=list)
    remaining: list[Remaining] = field(default_factory=list)
    caps: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds_to_compile: float = 0.0
    ill_conditioned: bool = False  # does the original's own rounding exceed what is promised?
    folded_batch_norms: int = 0
    bound_seconds_after: float = 0.0  # with every item input bound, the reading of table rows counted
    table_bytes_per_item: int = 0

    def flops(self, num_candidates: int, num_requests: int = 1, bound: bool = False) -> dict[str, int]:
        """FLOPs of one call: before, after, and its request and candidate parts (all item inputs bound, or none)."""
        request = self.bound_flops_per_request if bound else self.flops_per_request
        candidate = self.bound_flops_per_candidate if bound else self.flops_per_candidate
        return {
            "before": self.flops_per_pair * num_candidates,
            "after": request * num_requests + candidate * num_candidates,
            "request": request * num_requests,
            "candidate": candidate * num_candidates,
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        return "\n".join(_text(self))


def make_report(sharer: Sharer, form: NormalForm, program: Program, bound: Program, num_candidates: int) -> Report:
    """Collect the decisions of a sharing run and count its work."""
    pair = form.work
    per = work_by_region(program.graph, 1, 1)
    per_bound = work_by_region(bound.graph, 1, 1)
    before = Work(pair.flops * num_candidates, pair.bytes * num_candidates, pair.launches)
    at_n = work_by_region(program.graph, 1, num_candidates)
    after: Work = at_n[Region.REQUEST] + at_n[Region.MIXED]
    bound_at_n = work_by_region(bound.graph, 1, num_candidates)
    bound_after: Work = bound_at_n[Region.REQUEST] + bound_at_n[Region.MIXED]
    frontier = program.frontier(Region.REQUEST)
    live = {n.index for n in program.graph.live()}
    written = [
        Written(repr(m.node.args[0]), m.node.source, m.reason, m.bytes_per_candidate)
        for m in sharer.materialised.values()
        if m.node.index in live
    ]
    remaining = _remaining(program)
    report = Report(
        request_inputs=program.sides.request,
        candidate_inputs=program.sides.candidate,
        flops_per_pair=pair.flops,
        flops_per_request=per[Region.REQUEST].flops,
        flops_per_candidate=per[Region.MIXED].flops,
        bound_flops_per_request=per_bound[Region.REQUEST].flops,
        bound_flops_per_candidate=per_bound[Region.MIXED].flops,
        bytes_per_pair=pair.bytes,
        bytes_per_request=per[Region.REQUEST].bytes,
        bytes_per_candidate=per[Region.MIXED].bytes,
        frontier_bytes=sum(n.numel * n.dtype.itemsize for n in frontier),
        pays=sharing_pays(before, after),
        seconds_before=before.seconds,
        seconds_after=after.seconds,
        weighed_at=num_candidates,
        bound_seconds_after=bound_after.seconds,
        table_bytes_per_item=sum(n.numel * n.dtype.itemsize for n in bound.frontier(Region.ITEM)),
        applied=_lines([d for d in sharer.decisions if not d.reason]),
        declined=_lines([d for d in sharer.decisions if d.reason]),
        written_out=written,
        remaining=remaining,
        caps=_caps(remaining, sharer.decisions),
    )
    report.folded_batch_norms = sum(x.times for x in report.applied if x.rewrite == "fold_batch_norm")
    if form.cut_operations:
        report.applied.append(Line("read_only_needed_positions", form.cut_operations, ()))
    if not report.pays:
        report.notes.append(
            "nothing pays: by estimate the original is faster, so calls run it on replicated request inputs"
        )
    return report


def _lines(decisions: Sequence[Decision]) -> list[Line]:
    groups: dict[tuple[str, str], list[Decision]] = {}
    for d in decisions:
        groups.setdefault((d.rewrite, d.reason), []).append(d)
    out = []
    for (rewrite, reason), same in groups.items():
        sources = tuple(dict.fromkeys(d.source for d in same if d.source))[:5]
        nodes = same[0].nodes if reason else ()
        out.append(Line(rewrite, len(same), sources, reason, nodes))
    return sorted(out, key=lambda line: -line.times)


def _remaining(program: Program, most: int = 8) -> list[Remaining]:
    """The heaviest products that are left for every candidate, with what holds them there."""
    live = program.graph.live()
    touched: set[int] = set()  # candidate-side nodes that read something of the request
    for node in live:
        if node.region == Region.MIXED and any(n.region == Region.REQUEST or n.index in touched for n in node.inputs()):
            touched.add(node.index)
    out = []
    for node in live:
        flops = flops_per_row(node)
        if node.region != Region.MIXED or not flops:
            continue
        reads_both = any(n.index in touched for n in node.inputs())
        item_only = not reads_both and not any(n.region == Region.REQUEST for n in _data_inputs(node))
        why = "item-only: bind() computes it once a catalogue" if item_only else _why(node, reads_both)
        out.append(Remaining(f"{node.op} {_shape(node)}", node.source, flops, item_only, why))
    out.sort(key=lambda r: -r.flops_per_candidate)
    return out[:most]


def _data_inputs(node: Node) -> list[Node]:
    return [node.args[0]] if node.op == "linear_with_request_term" else list(node.inputs())


def _shape(node: Node) -> str:
    return "x".join(str(s) for s in node.dims) or "1"


def _why(node: Node, reads_both: bool) -> str:
    if node.op in ("shared_einsum", "shared_attention"):
        return "each candidate's own product with the shared request tensor"
    if reads_both:
        return "reads values in which request and candidate are already mixed by a nonlinearity"
    return "reads the candidate"


def _caps(remaining: Sequence[Remaining], decisions: Sequence[Decision]) -> list[str]:
    """What exactness allows at most, and which change of the model would lift it."""
    out = []
    many = [d for d in decisions if "many queries" in d.reason]
    if many:
        out.append(
            "self-attention lets history positions read the candidate, so the history is encoded again for every "
            "candidate; a causal mask, or attention from candidate to history only, would share all of it"
        )
    pairwise = [r for r in remaining if not r.item_only and "x" in r.operation.split(" ")[1] and "mixed" in r.why]
    if pairwise:
        out.append(
            f"{pairwise[0].source or pairwise[0].operation}: a product over (candidate, position) pairs; "
            "attention by dot products instead of an MLP over pairs would share it"
        )
    mixed = sum(r.flops_per_candidate for r in remaining if not r.item_only)
    if mixed:
        out.append(
            f"{mixed:,} FLOPs a candidate follow a nonlinearity over both sides (early fusion); "
            "keeping the sides apart for more layers would share more"
        )
    return out


def _text(r: Report) -> list[str]:
    n = r.weighed_at
    flops, bound = r.flops(n), r.flops(n, bound=True)
    lines = [
        f"Shared model: request inputs {list(r.request_inputs)}, candidate inputs {list(r.candidate_inputs)}",
        f"Matrix-product FLOPs for one request of {n} candidates: {flops['before']:,} -> {flops['after']:,} "
        f"({_times(flops['before'], flops['after'])}); with item inputs bound {bound['after']:,} "
        f"({_times(bound['before'], bound['after'])})",
        f"  once a request {r.flops_per_request:,}; a candidate {r.flops_per_candidate:,} (was {r.flops_per_pair:,})",
        f"Bytes moved: {r.bytes_per_pair * n:,} -> {r.bytes_per_request + r.bytes_per_candidate * n:,}; "
        f"request state worth keeping: {r.frontier_bytes:,} bytes",
        f"Pays: {'yes' if r.pays else 'no'} "
        f"(estimate {r.seconds_before * 1e3:.2f} ms -> {r.seconds_after * 1e3:.2f} ms on one core)",
        _binding(r),
    ]
    lines += [f"Note: {text}" for text in r.notes]
    lines.append("Rewrites applied:")
    lines += [f"  {x.rewrite} x{x.times}" + (f"  e.g. {x.sources[0]}" if x.sources else "") for x in r.applied]
    if r.declined:
        lines.append("Rewrites declined:")
        lines += [
            f"  {x.rewrite} x{x.times}: {x.reason}" + (f"  e.g. {x.sources[0]}" if x.sources else "")
            for x in r.declined
        ]
    lines.append(
        "Written out for every candidate:"
        if r.written_out
        else "Nothing of the request is written out for every candidate."
    )
    lines += [f"  {w.bytes_per_candidate:,} bytes: {w.what} for {w.why}" for w in r.written_out]
    lines.append("Left for every candidate:")
    lines += [f"  {x.flops_per_candidate:,} FLOPs: {x.operation} ({x.why})  {x.source}" for x in r.remaining]
    lines += [f"Cap: {text}" for text in r.caps]
    lines += [f"Checked: {text}" for text in r.checks]
    return lines


def _binding(r: Report) -> str:
    """Does a bound catalogue pay, and what does it hold?"""
    if not r.table_bytes_per_item:
        return "Binding: nothing depends on items alone"
    verdict = "pays" if r.bound_seconds_after < r.seconds_after else "does not pay"
    return (
        f"Binding: {verdict} (estimate {r.seconds_after * 1e3:.2f} ms -> {r.bound_seconds_after * 1e3:.2f} ms a "
        f"request); {r.table_bytes_per_item:,} bytes a catalogue row"
    )


def _times(before: int, after: int) -> str:
    return f"{before / after:.2f}x" if after else "all removed" if before else "no products"


__all__ = ["Any", "Callable", "Counter", "Line", "Remaining", "Report", "Written", "make_report"]

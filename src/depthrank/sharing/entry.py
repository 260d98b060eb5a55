"""``share``: an ordinary ranking module becomes one that computes request-side work once per request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthrank.errors import SharingError
from depthrank.sharing import measured
from depthrank.sharing.assumptions import Observed, check_tried
from depthrank.sharing.capture import capture
from depthrank.sharing.compiler import NormalForm, build_program, read_normal_form
from depthrank.sharing.inputs import ModuleInputs, Sides, read_example, split_pairs, split_sides
from depthrank.sharing.normal_form.reader import FAULTS
from depthrank.sharing.program import Program
from depthrank.sharing.refusal import Faulty, Refused
from depthrank.sharing.report import Report, make_report
from depthrank.sharing.shared import Shared
from depthrank.sharing.sharer import Options
from depthrank.sharing.tracing import running_line
from depthrank.sharing.verify import (
    CASES,
    Differs,
    Draw,
    check_algebra,
    check_equal,
    check_rows_independent,
    draw_inputs,
    has_fused_encoder,
    own_rounding,
    rows_lead,
    tensors_of,
    tolerance,
    without_fused_encoder,
)

_MOST_SINGLE_ROWS = 32
_MOST_TIMES_OWN_ROUNDING = 32
_NEAR = 1 / 16  # of the promise: from here on the original's own rounding is looked at
# Of numbers near zero these make large ones, on few of many inputs: rounding is looked at on more of them.
_MAGNIFY = frozenset(f"aten.{name}.default" for name in ("log", "log2", "log10", "reciprocal"))
_MANY = ((16, 512), (16, 513))
_MOST_ROUNDING = 1e-3  # beyond it a difference is no rounding


def share(
    module: nn.Module,
    example: Any,
    request_inputs: Sequence[str] | Mapping[str, Any],
    *,
    candidates: int = 1000,
    fold_batch_norm: bool = False,
    check_inputs: Sequence[Any] = (),
    without: Sequence[str] = (),
    timed: bool = True,
) -> Shared:
    """The request-centric form of ``module``, equal to it within 1e-5 of max(1, max |score|) in fp32.

    ``example`` is the module's ordinary input with a leading batch of (request, candidate) pairs: a tensor, a tuple of
    positional tensors, a dict (keywords if the names are forward parameters, else the module's one dict input), or
    ``(args, kwargs)``. ``request_inputs`` names the inputs that are the same for all candidates of a request; for a
    packed matrix ``{name: slice or column list}``. ``candidates`` is the N that costs are weighed at. ``check_inputs``
    are more examples that the result is checked on. ``without`` leaves rewrites out, by name, for ablations. ``timed``
    False leaves it to the estimate alone whether calls run the shared form or, where that is no faster, the original.

    Raises ``SharingError``; its child ``Refused`` carries ``reason``, ``node`` and ``source`` where an operation mixes
    rows of the batch. The module is not changed.
    """
    began = time.perf_counter()
    module = _unwrapped(module)
    inputs = read_example(module, example)
    sides = split_sides(inputs, request_inputs)
    if not sides.candidate:
        raise SharingError(
            f"request_inputs names every input, {list(sides.request)}; at least one must vary by candidate"
        )
    form = read_normal_form(capture(module, inputs))
    options = Options(candidates=candidates, fold_batch_norm=fold_batch_norm, without=frozenset(without))
    own = _Job(module, inputs, sides, form)
    lead = rows_lead(form)
    check_rows_independent(module, inputs, sides, lead)
    try:
        shared = own.shared(options, check_inputs)
    except (Differs, Faulty) as fault:
        own.refuse_fused_encoder(options, check_inputs)
        own.refuse_assumptions(fault)
        shared = own.with_hoisting_alone(options, check_inputs, fault)
    if timed and not shared.report.ill_conditioned:
        own.choose_by_the_clock(shared, candidates)
    shared.report.seconds_to_compile = time.perf_counter() - began
    return shared


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside torch.compile or a data-parallel wrapper; raises ``Refused`` for TorchScript."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            break
        module = inner
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"module.{path}" if path else "the module"
            raise Refused(f"{where} is TorchScript, which torch.export cannot capture; share the Python module", where)
    return module


@dataclass(frozen=True)
class _Job:
    """One module to share."""

    module: nn.Module
    inputs: ModuleInputs
    sides: Sides
    form: NormalForm

    def shared(self, options: Options, check_inputs: Sequence[Any]) -> Shared:
        """Build, report, verify."""

        def rebind(names: frozenset[str]) -> Program:
            bound_options = Options(names, options.candidates, options.fold_batch_norm, options.without)
            return build_program(self.form, self.sides, bound_options)[0]

        program, sharer = build_program(self.form, self.sides, options)
        everything = rebind(frozenset(self.sides.candidate))
        report = make_report(sharer, self.form, program, everything, options.candidates)
        shared = Shared(program, report, rebind, (self.inputs, self.module))
        try:
            worst = _verify(shared, self.module, self.inputs, self.sides, self.form, check_inputs)
        except Differs as fault:
            if not self.is_rounding(shared, fault, check_inputs):
                raise
            return shared
        magnifies = any(node.op in _MAGNIFY for node in program.graph.live())
        if worst > _NEAR * tolerance(self.form.graph) or magnifies:
            self.leave_if_ill_conditioned(shared, check_inputs, _MANY if magnifies else ())
        return shared

    def draws_of_captured(self, check_inputs: Sequence[Any]) -> list[Draw]:
        """Inputs that the captured graph itself can run: one captured at a number of rows takes no other."""
        if self.form.captured.fixed_because:
            return [draw_inputs(self.inputs, self.sides, 3, self.form.captured.batch, seed=7)]
        return _draws(self.module, self.inputs, self.sides, check_inputs)

    def leave_if_ill_conditioned(
        self, shared: Shared, check_inputs: Sequence[Any], more: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Calls run an original whose own rounding is about what is promised: other inputs would show more of it.

        ``more``: requests and candidates of further draws to look at.
        """
        draws = self.draws_of_captured(check_inputs)
        if not self.form.captured.fixed_because:
            draws += [draw_inputs(self.inputs, self.sides, r, n, seed=n) for r, n in more]
        noise = own_rounding(self.module, self.inputs, self.sides, self.form, draws)
        if not tolerance(self.form.graph) / 2 < noise < _MOST_ROUNDING:
            return
        shared.report.ill_conditioned, shared.report.pays = True, False
        shared.report.notes.append(
            f"the original's own rounding is {noise:.0e} of its scores, about what is promised; calls run the original"
        )

    def is_rounding(self, shared: Shared, fault: Differs, check_inputs: Sequence[Any]) -> bool:
        """Is the form exact in double precision, and the original itself about as inexact in its own?

        Then calls run the original: no order of the same sums would be within the promise of another.
        """
        captured = self.form.captured
        if captured.assumed or captured.picks_rows or captured.loops_over_steps or fault.by > _MOST_ROUNDING:
            return False
        draws = self.draws_of_captured(check_inputs)
        noise = own_rounding(self.module, self.inputs, self.sides, self.form, draws)
        if noise > _MOST_ROUNDING or fault.by > _MOST_TIMES_OWN_ROUNDING * noise:
            return False
        try:
            exact = check_algebra(self.form, shared.program, self.sides, draws)
        except FAULTS:
            return False
        report = shared.report
        report.ill_conditioned, report.pays = True, False
        report.notes.append(
            f"the original's own rounding is {noise:.0e} of its scores; the shared form (exact within {exact:.0e} in "
            f"double precision) differs from it by {fault.by:.0e}, more than is promised; calls run the original"
        )
        return True

    def refuse_fused_encoder(self, options: Options, check_inputs: Sequence[Any]) -> None:
        """Raises ``Refused`` if only torch's fused encoder, which leaves zeros at padded positions, differs."""
        if not has_fused_encoder(self.module):
            return
        try:
            with without_fused_encoder():
                self.shared(options, check_inputs)
        except (Differs, Faulty):
            return
        raise Refused(
            "the model reads padded positions of nn.TransformerEncoder, where its fused kernel writes zeros, so its "
            "own output differs with and without gradients; build it with enable_nested_tensor=False, or call "
            "torch.backends.mha.set_fastpath_enabled(False) before sharing and before comparing",
            "nn.TransformerEncoder",
        )

    def refuse_assumptions(self, fault: SharingError) -> None:
        """Raises ``Refused`` for a model that differs and of which something was taken for granted."""
        assumed = self.form.captured.assumed
        if not isinstance(fault, Differs):
            return
        if self.form.captured.loops_over_steps:
            raise Refused(
                "a loop of the module's own over the steps of a packed sequence: how many rows have a step depends on "
                "the values of the batch, and its result is not what it is with every row at every step",
                "PackedSequence.batch_sizes",
            ) from fault
        if assumed:
            raise Refused(
                "a branch or an order of rows depends on the values of the batch, and taken for granted it changes "
                "scores (control flow on values, or rows that are sorted and not put back)",
                "a branch or a sort over the batch",
                next(iter(assumed)),
            ) from fault

    def choose_by_the_clock(self, shared: Shared, candidates: int) -> None:
        """Calls run the form that is faster here, where the estimate leaves that open."""
        report = shared.report
        on_cpu = all(t.device.type == "cpu" for t in self.inputs.example.values())
        if not on_cpu or report.seconds_before > measured.SURE_GAIN * report.seconds_after:
            return
        timing = measured.time_both(shared, self.module, self.inputs, self.sides, candidates)
        if timing is None:
            return
        report.pays = timing.pays
        report.notes = [n for n in report.notes if not n.startswith("nothing pays")]
        chosen = "the shared form" if timing.pays else "the original"
        report.notes.append(
            f"timed with {candidates} candidates: original {1e3 * timing.original:.2f} ms, "
            f"shared {1e3 * timing.shared:.2f} ms; calls run {chosen}"
        )

    def with_hoisting_alone(self, options: Options, check_inputs: Sequence[Any], fault: SharingError) -> Shared:
        """The form without any rewrite but hoisting: what a faulty rewrite leaves is slower, never wrong."""
        from depthrank.sharing.rewrites import PIPELINE

        plain = frozenset(name for name, _ in PIPELINE if name != "hoist_request_work")
        try:
            shared = self.shared(Options(options.bound, options.candidates, False, plain), check_inputs)
        except (Differs, Faulty):
            raise fault from None
        shared.report.notes.append(f"shared by hoisting alone, since a rewrite failed: {fault}")
        return shared


def _verify(
    shared: Shared, module: nn.Module, inputs: ModuleInputs, sides: Sides, form: NormalForm, check_inputs: Sequence[Any]
) -> float:
    """Every check before the model is handed out; what was found goes into the report. Returns the worst distance."""
    report: Report = shared.report
    draws = _draws(module, inputs, sides, check_inputs)

    def run(draw: Draw) -> list[Tensor]:
        index = draw.request_of_candidate
        return tensors_of(shared.score(shared.encode(draw.request), draw.candidate, index))

    captured = form.captured
    if captured.assumed or captured.picks_rows:
        draws += _row_by_row(inputs, sides)
    observed = Observed(running_line) if captured.assumed else contextlib.nullcontext()
    with torch.no_grad(), observed:
        equality = check_equal(run, module, inputs, sides, draws, rows_lead(form), tolerance(form.graph))
    if isinstance(observed, Observed):
        check_tried(captured.assumed, observed)
    report.checks.append(f"equal to the original within {equality.worst:.1e} in {equality.compared} draws")
    report.checks.append("rows of the original do not depend on each other")
    report.notes += [f"not checked on {skipped}" for skipped in equality.skipped]
    if captured.assertions:
        report.notes.append(f"assertions on values are not checked by the shared form: {list(captured.assertions)}")
    if captured.fixed_because:
        report.notes.append(f"captured at {captured.batch} rows and checked at others, since {captured.fixed_because}")
        draws = [draw_inputs(inputs, sides, 3, captured.batch, seed=7)]
    if not equality.varies:
        report.notes.append(
            "outputs did not vary over the check inputs, so equality says little: give a better example"
        )
    try:
        exact = check_algebra(form, shared.program, sides, draws)
    except FAULTS as error:
        if isinstance(error, Differs):
            raise
        report.notes.append(f"not checked in double precision: {str(error).splitlines()[0]}")
        return equality.worst
    report.checks.append(f"algebra equal within {exact:.1e} in double precision")
    return equality.worst


def _draws(module: nn.Module, inputs: ModuleInputs, sides: Sides, check_inputs: Sequence[Any]) -> list[Draw]:
    """What every form is checked on: random rows, the user's own examples, histories that are all padding."""
    draws = [draw_inputs(inputs, sides, r, n, seed) for seed, (r, n) in enumerate(CASES)]
    draws += [_user_draw(module, inputs, sides, example) for example in [None, *check_inputs]]
    return [*draws, draw_inputs(inputs, sides, 2, 5, seed=99, padded=True)]


def _row_by_row(inputs: ModuleInputs, sides: Sides) -> list[Draw]:
    """Every row of the example alone, so that masks which pick nothing are met."""
    request, candidate = split_pairs(sides, inputs.example)
    device = next(iter(inputs.example.values())).device
    index = torch.zeros(1, dtype=torch.int64, device=device)
    rows = range(min(next(iter(inputs.example.values())).shape[0], _MOST_SINGLE_ROWS))
    one = [({n: t[k : k + 1] for n, t in side.items()} for side in (request, candidate)) for k in rows]
    return [Draw(r, c, index, f"row {k} of the example alone") for k, (r, c) in zip(rows, one)]


def _user_draw(module: nn.Module, inputs: ModuleInputs, sides: Sides, example: Any) -> Draw:
    """A user's own rows, every pair its own request."""
    own = inputs if example is None else read_example(module, example)
    if own.names != inputs.names:
        raise SharingError(f"check_inputs names {own.names}; the example named {inputs.names}")
    request, candidate = split_pairs(sides, own.example)
    rows = next(iter(own.example.values())).shape[0]
    index = torch.arange(rows, device=next(iter(own.example.values())).device)
    return Draw(request, candidate, index, "the example" if example is None else "check_inputs")

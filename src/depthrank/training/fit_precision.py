"""The precision policy of a model on this machine: layers timed, judged alone, chosen together, verified together.

Everything is done on requests of the validation split: one half gives input scales and what a layer costs alone, the
other half verifies the joint choice. The test split stays unseen.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch

from depthrank.artifact import model_identity
from depthrank.errors import DataError
from depthrank.model import ElasticRanker
from depthrank.precision import (
    Format,
    Hardware,
    LayerChoice,
    Peaks,
    PrecisionPolicy,
    examine_hardware,
    in_formats,
    layers_of,
    measure_peaks,
)
from depthrank.precision.formats import FOR_ACCURACY_ONLY
from depthrank.precision.in_formats import formats_of
from depthrank.precision.observed import Seen, observed
from depthrank.routing import CostRates
from depthrank.training.choose_formats import Assignment, Option, choose_formats
from depthrank.training.judge_precision import Accuracy, Judge, Limits
from depthrank.training.measure_costs import measure_costs, thread_clock
from depthrank.training.replay_requests import FullDepth, HeldOut, OneRequest
from depthrank.training.time_layers import (
    LayerTimes,
    Uses,
    extended_state,
    flops_by_peak,
    fresh_state,
    median,
    run_plan,
    uses_of,
)

BATCH_REQUESTS = 8
SHAPED_REQUESTS = 2
TIMED_ROUNDS = 7
WORTH_JUDGING = 0.002  # of a request's time: a smaller saving is not worth a run
MEASURED = (
    *("speedup_vs_fp32", "ne_change", "top10_overlap", "kept_gain", "mfu"),
    *("verified_on", "torch_threads", "matmul_precision", "peaks"),
)
Plan = tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """How much to measure. ``plans``: candidates by level, router first; empty: the artifact's ladder."""

    limits: Limits = field(default_factory=Limits)
    requests: int = 128
    candidates: int | None = None
    plans: tuple[Plan, ...] = ()
    judge_seconds: float = 120.0
    layer_seconds: float = 0.02


@dataclass(frozen=True)
class Tuned:
    """The policy and what ``depthrank tune`` tells of it."""

    policy: PrecisionPolicy
    figures: dict[str, Any]


class Calibration:
    """A model with everything that tuning asks of it: requests by the batch and one by one, and plans."""

    def __init__(self, held_out: HeldOut, model: ElasticRanker, settings: Settings, plans: Sequence[Plan]) -> None:
        """Raises DataError where there are too few validation requests."""
        self.full = FullDepth(held_out.spec, model, held_out.encoder, held_out.items)
        loader, _ = held_out.requests("validation", 2 * settings.requests, batch_requests=BATCH_REQUESTS)
        batches = [batch for batch in loader.epoch(0) if len(batch.item_row)]
        if len(batches) < 2:
            raise DataError("tuning needs validation requests, and there are next to none: see split in ranking.yaml")
        self.fitting, self.verifying = batches[::2], batches[1::2]
        single, _ = held_out.requests("validation", 4 * SHAPED_REQUESTS, seed=1)
        some = list(self.full.prepared(islice(single.epoch(0), 4 * SHAPED_REQUESTS)))
        usual = settings.candidates or max(one.num_candidates for one in some)
        some.sort(key=lambda one: -one.history_length)
        self.singles = [widened(one, usual) for one in some[:SHAPED_REQUESTS]]
        self.plans = [tuple(min(width, usual) for width in plan) for plan in (settings.plans or plans)]

    def seen_by_layers(self) -> dict[str, Seen]:
        """What the layers of the fp32 model see of the fitting requests, at every level."""
        with observed(self.full.model) as found:
            Judge(self.full, self.fitting)
        return found


def fit_precision(
    held_out: HeldOut,
    model: ElasticRanker,
    plans: Sequence[Plan],
    settings: Settings,
    *,
    monotonic_s: Callable[[], float] = time.monotonic,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Tuned:
    """Measure, choose and verify. ``plans``: those of the artifact's ladder. Raises DataError."""
    hardware = examine_hardware()
    on_phase(f"this machine is {hardware.fingerprint}: measuring its peaks")
    peaks = measure_peaks()
    calibration = Calibration(held_out, model, settings, plans)
    on_phase(f"running {len(calibration.plans)} plans to see what each layer is asked")
    uses = uses_of(calibration.full, calibration.singles, calibration.plans, time.perf_counter)
    seen = calibration.seen_by_layers()
    on_phase(f"timing {len(uses.weights)} layers in every format")
    table = LayerTable.timed(calibration.full.model, uses, seen, LayerTimes(settings.layer_seconds))
    on_phase(f"judging layers alone on {sum(map(len, calibration.fitting))} requests")
    judge = Judge(calibration.full, calibration.fitting)
    table.judge_alone(judge, calibration.full.model, monotonic_s() + settings.judge_seconds, monotonic_s)
    verifier = Judge(calibration.full, calibration.verifying)

    def holds(formats: Assignment) -> bool:
        return verifier.accuracy(table.model_in(formats)).within(settings.limits)

    chosen = choose_formats(table.options(), holds)
    on_phase(f"chosen after {chosen.tried} joint runs: measuring")
    return _report(calibration, table, chosen.formats, verifier, settings, hardware, peaks)


@dataclass
class LayerRow:
    """One layer: its relative time by format, its input scale, and what formats cost alone where that was judged."""

    time: dict[Format, float]
    input_scale: float
    alone: dict[Format, Accuracy] = field(default_factory=dict)

    def choice(self, format: Format) -> LayerChoice:
        """The layer in a format."""
        return LayerChoice(format, self.input_scale if format is Format.INT8_STATIC else None)


class LayerTable:
    """Every layer that requests use, timed and judged."""

    def __init__(self, model: ElasticRanker, rows: dict[str, LayerRow]) -> None:
        self.model, self.rows, self.unjudged = model, rows, 0

    @classmethod
    def timed(cls, model: ElasticRanker, uses: Uses, seen: dict[str, Seen], times: LayerTimes) -> LayerTable:
        """Every layer in every format it has, at the shapes that the plans asked of it."""
        layers, rows = layers_of(model), {}
        for name, weights in uses.weights.items():
            formats = [f for f in formats_of(layers[name]) if f not in FOR_ACCURACY_ONLY]
            spent = {format: times.weighted_ms(layers[name], weights, format) for format in formats}
            rows[name] = LayerRow(spent, seen[name].input_scale() if name in seen else 1.0)
        return cls(model, rows)

    def judge_alone(
        self, judge: Judge, model: ElasticRanker, deadline_s: float, monotonic_s: Callable[[], float]
    ) -> None:
        """What each format costs in each layer alone, those that save most first, until the time is up."""
        total = sum(row.time[Format.FP32] for row in self.rows.values())
        wanted = [
            (row.time[Format.FP32] - spent, name, format)
            for name, row in self.rows.items()
            for format, spent in row.time.items()
            if row.time[Format.FP32] - spent > WORTH_JUDGING * total
        ]
        for done, (_, name, format) in enumerate(sorted(wanted, reverse=True)):
            if monotonic_s() >= deadline_s:
                self.unjudged = len(wanted) - done
                break
            row = self.rows[name]
            row.alone[format] = judge.accuracy(in_formats(model, {name: row.choice(format)}))

    def options(self) -> dict[str, list[Option]]:
        """What the choice is made from: fp32 and every format that was judged."""
        return {
            name: [
                Option(Format.FP32, row.time[Format.FP32], 0.0),
                *(Option(f, row.time[f], max(a.logit_error, 0.0)) for f, a in row.alone.items()),
            ]
            for name, row in self.rows.items()
        }

    def choices(self, formats: Assignment) -> dict[str, LayerChoice]:
        """An assignment with its scales, layers that stay fp32 left out."""
        return {name: self.rows[name].choice(f) for name, f in formats.items() if f is not Format.FP32}

    def model_in(self, formats: Assignment) -> ElasticRanker:
        """The model under an assignment."""
        return in_formats(self.model, self.choices(formats))

    def predicted(self, formats: Assignment) -> float:
        """Time of the layers under an assignment over their time in fp32."""
        before = sum(row.time[Format.FP32] for row in self.rows.values())
        return sum(row.time[formats[name]] for name, row in self.rows.items()) / before

    def to_plain(self, formats: Assignment) -> list[dict[str, Any]]:
        """A row for each layer, those that take most of the time in fp32 first."""
        total = sum(row.time[Format.FP32] for row in self.rows.values())
        ordered = sorted(self.rows.items(), key=lambda item: -item[1].time[Format.FP32])
        return [
            {
                "layer": name,
                "format": str(formats[name]),
                "share_of_fp32": row.time[Format.FP32] / total,
                "speedup": row.time[Format.FP32] / row.time[formats[name]],
                "relative_time": {str(f): spent / row.time[Format.FP32] for f, spent in row.time.items()},
                "alone": {str(f): accuracy.to_plain() for f, accuracy in row.alone.items()},
            }
            for name, row in ordered
        ]


def widened(one: OneRequest, num_candidates: int) -> OneRequest:
    """The request with its candidates repeated, or cut, to a number: time does not depend on who they are."""
    index = torch.arange(num_candidates) % one.num_candidates
    candidates = one.candidates.select(index)
    batch = copy.copy(one.batch)
    object.__setattr__(batch, "item_row", one.batch.item_row[index.numpy()])
    return OneRequest(one.request, candidates, batch)


def default_plans(num_levels: int, usual: int, top: int = 10) -> list[Plan]:
    """Plans where no ladder was fitted: full depth, and an eighth of the candidates from level to level."""
    narrowing = [usual] + [max(min(top, usual), usual // (8 * 4**level)) for level in range(num_levels - 1)]
    return [tuple(narrowing), (usual,) * num_levels]


def _report(
    calibration: Calibration,
    table: LayerTable,
    formats: Assignment,
    verifier: Judge,
    settings: Settings,
    hardware: Hardware,
    peaks: Peaks,
) -> Tuned:
    """Time and judge the joint choice; a choice that is not faster is given up for fp32."""
    choices = table.choices(formats)
    served = in_formats(table.model, choices)
    speeds = measure_plans(calibration, served)
    if speeds["speedup"] <= 1.0 and choices:
        formats = {name: Format.FP32 for name in formats}
        choices, served = {}, table.model
        speeds = measure_plans(calibration, served)
    accuracy = verifier.accuracy(served)
    full_plan = max(calibration.plans, key=sum)
    one = calibration.singles[0]
    state = fresh_state(calibration.full, table.model, one)
    table.model.encoder.deepen_(state, table.model.config.encoder_layers)
    run = partial(run_plan, calibration.full, table.model, one, full_plan, state)
    flops = flops_by_peak(table.model, run, choices)
    best_ms = sum(count / peaks.of(peak) for peak, count in flops.items()) * 1e3
    predicted = table.predicted(formats)
    figures = {
        "speedup_vs_fp32": speeds["speedup"],
        **{name: value for name, value in accuracy.to_plain().items() if name != "logit_error"},
        "mfu": best_ms / speeds["full_depth_ms"],
        "layers": table.to_plain(formats),
        "layers_predicted_speedup": 1.0 / predicted,
        "plans": speeds["plans"],
        "verified_on": verifier.num_requests,
        "not_judged": table.unjudged,
        "limits": settings.limits.to_plain(),
        "hardware": hardware.to_plain(),
        "peaks": peaks.to_plain(),
        "torch_threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "intervals": {name: i.to_plain() for name, i in verifier.intervals(served).items()},
    }
    costs = measure_costs(with_model(calibration.full, served), calibration.singles, thread_clock())
    ladder = [_rung(costs.rates(), plan, float(one.history_length)) for plan in calibration.plans]
    policy = PrecisionPolicy(
        hardware.fingerprint,
        made_for=model_identity(table.model),
        choices=choices,
        hardware=hardware.to_plain(),
        costs=costs.to_plain(),
        ladder=tuple(ladder),
        limits=settings.limits.to_plain(),
        measured={name: figures[name] for name in MEASURED},
    )
    return Tuned(policy, figures)


def _rung(rates: CostRates, widths: Sequence[int], history: float) -> dict[str, Any]:
    """A plan and what it costs by the new cost model."""
    cold, warm = (rates.plan_ms(widths, history, warm=temperature) for temperature in (False, True))
    return {"widths": list(widths), "warm_ms": warm, "cold_ms": cold}


def with_model(full: FullDepth, model: ElasticRanker) -> FullDepth:
    """The same catalogue with another form of the model."""
    other = copy.copy(full)
    other.model = model
    return other


def measure_plans(calibration: Calibration, served: ElasticRanker) -> dict[str, Any]:
    """Every plan in fp32 and as served, run in turn: medians in milliseconds, and the mean ratio over plans."""
    full, plain = calibration.full, calibration.full.model
    found: list[dict[str, Any]] = []
    for widths in calibration.plans:
        for warm in (True, False):
            times: dict[str, list[float]] = {"fp32": [], "served": []}
            for number in range(TIMED_ROUNDS + 1):
                for name, model in (("fp32", plain), ("served", served)):
                    times[name] += _timed(full, model, calibration.singles, widths, warm) if number else []
            ms = {name: median(values) for name, values in times.items()}
            ratio = median(a / b for a, b in zip(times["fp32"], times["served"], strict=True))
            found.append(
                {"widths": list(widths), "warm": warm, **{f"{n}_ms": v for n, v in ms.items()}, "speedup": ratio}
            )
    widest = max(calibration.plans, key=sum)
    full_depth = next(row for row in found if tuple(row["widths"]) == tuple(widest) and row["warm"])
    return {
        "plans": found,
        "speedup": sum(row["speedup"] for row in found) / len(found),
        "full_depth_ms": full_depth["served_ms"],
    }


def _timed(
    full: FullDepth, model: ElasticRanker, requests: Iterable[OneRequest], widths: Sequence[int], warm: bool
) -> list[float]:
    """Milliseconds of a plan for each request; of a warm one the user state is there but for its last event."""
    times = []
    for one in requests:
        whole = fresh_state(full, model, one) if warm else None
        if whole is not None:
            model.encoder.deepen_(whole, model.config.encoder_layers)
        started = time.perf_counter()
        state = fresh_state(full, model, one) if whole is None else extended_state(full, model, one, whole)
        run_plan(full, model, one, widths, state)
        times.append((time.perf_counter() - started) * 1e3)
    return times

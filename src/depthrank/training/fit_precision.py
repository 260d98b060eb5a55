"""The precision policy of a model on this machine: layers timed, judged alone, chosen together, verified together.

Everything is done on requests of the validation split: one half gives input scales and what a layer costs alone, the
other half verifies the joint choice. The test split stays unseen.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import torch

from depthrank.artifact import model_identity
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
from depthrank.precision.observed import Seen, output_error
from depthrank.routing import CostRates
from depthrank.training.choose_formats import Assignment, Option, choose_formats
from depthrank.training.fit_by_replay import fit_by_replay
from depthrank.training.judge_precision import Accuracy, Judge
from depthrank.training.measure_costs import measure_costs, thread_clock
from depthrank.training.replay_requests import FullDepth, HeldOut
from depthrank.training.time_layers import LayerTimes, Uses, uses_of
from depthrank.training.tuning_requests import Calibration, Plan, Settings, compiled_where_faster, measure_plans

OF_LEVELS = ("experts.", "candidate_")  # what runs for candidates alone
WORTH_JUDGING = 0.002  # of a request's time: a smaller saving is not worth a run
LEAST_RATE = 1e-6  # of an output's error
MEASURED = (
    *("speedup_vs_fp32", "ne_change", "top10_overlap", "kept_gain", "mfu"),
    *("verified_on", "torch_threads", "matmul_precision", "peaks"),
)


@dataclass(frozen=True)
class Tuned:
    """The policy and what ``depthrank tune`` tells of it."""

    policy: PrecisionPolicy
    figures: dict[str, Any]


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
    tuned, served = _report(calibration, table, chosen.formats, verifier, settings, hardware, peaks, on_phase)
    return _with_own_ladder(tuned, served, held_out, on_phase)


def _with_own_ladder(tuned: Tuned, served: ElasticRanker, held_out: HeldOut, on_phase: Callable[[str], None]) -> Tuned:
    """The same with plan ladder and prices fitted to what plans cost so; training's stay where requests are too few."""
    on_phase("fitting the plan ladder to these costs")
    seconds, made_for = held_out.spec.training.replay_seconds, tuned.policy.made_for
    fitted = fit_by_replay(held_out, served, most_seconds=seconds, made_for=made_for)
    figures = tuned.figures | {"adaptive": fitted.report}
    if fitted.policy is None:
        return Tuned(tuned.policy, figures)
    return Tuned(replace(tuned.policy, adaptive=msgspec.json.decode(fitted.policy.to_bytes())), figures)


@dataclass
class LayerRow:
    """One layer: its time by format, its input scale, what formats do to its outputs, and to the model where that was
    judged."""

    time: dict[Format, float]
    input_scale: float
    output_error: dict[Format, float]
    alone: dict[Format, Accuracy] = field(default_factory=dict)

    def choice(self, format: Format) -> LayerChoice:
        """The layer in a format."""
        return LayerChoice(format, self.input_scale if format is Format.INT8_STATIC else None)


class LayerTable:
    """Every layer that requests use, timed and judged."""

    def __init__(self, model: ElasticRanker, rows: dict[str, LayerRow], times: LayerTimes) -> None:
        self.model, self.rows, self.times, self.unjudged = model, rows, times, 0

    @classmethod
    def timed(cls, model: ElasticRanker, uses: Uses, seen: dict[str, Seen], times: LayerTimes) -> LayerTable:
        """Every layer in every format it has, at the shapes that the plans asked of it."""
        layers, rows = layers_of(model), {}
        for name, weights in uses.weights.items():
            layer, of_layer = layers[name], seen.get(name, Seen())
            formats = [f for f in formats_of(layer) if f not in FOR_ACCURACY_ONLY]
            spent = {format: times.weighted_ms(layer, weights, format) for format in formats}
            spent = {format: ms for format, ms in spent.items() if math.isfinite(ms)}
            row = rows[name] = LayerRow(spent, of_layer.input_scale(), {})
            for format in list(spent)[1:]:
                row.output_error[format] = output_error(layer, of_layer, row.choice(format))
        return cls(model, rows, times)

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
        """What the choice is made from. A format that was not judged is believed to do to the model what it does to the
        layer's outputs, at the rate of those that were: the joint run has the last word. A layer that moved no
        order when it was judged alone still costs ``LEAST_RATE`` of its outputs' error, so that there is something
        between all layers at their fastest and none."""
        rates = [a.logit_error / max(r.output_error[f], 1e-12) for r in self.rows.values() for f, a in r.alone.items()]
        rate = max(sorted(rates)[len(rates) // 2] if rates else 1.0, LEAST_RATE)
        options = {}
        for name, row in self.rows.items():
            options[name] = [Option(Format.FP32, row.time[Format.FP32], 0.0)]
            for format, error in row.output_error.items():
                judged = row.alone.get(format)
                damage = rate * error if judged is None else max(judged.logit_error, LEAST_RATE * error)
                options[name].append(Option(format, row.time[format], damage))
        return options

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
    on_phase: Callable[[str], None],
) -> tuple[Tuned, ElasticRanker]:
    """Time and judge the joint choice; a choice that is not faster is given up for fp32. The model as it is served."""
    choices = table.choices(formats)
    served = in_formats(table.model, choices)
    compiled: dict[int, dict[str, Any]] = {}
    if settings.compile:
        served, compiled = compiled_where_faster(calibration, served, choices, hardware.fingerprint, on_phase)
    kept_levels = tuple(level for level, row in compiled.items() if row["kept"])
    if kept_levels and not verifier.accuracy(served).within(settings.limits):
        served, kept_levels = in_formats(table.model, choices), ()
        _give_up(compiled, "beyond the limits together with the others")
    speeds = measure_plans(calibration, served)
    if speeds["speedup"] <= 1.0 and (choices or kept_levels):
        formats = {name: Format.FP32 for name in formats}
        choices, served, kept_levels = {}, table.model, ()
        _give_up(compiled, "whole plans are not faster so")
        speeds = measure_plans(calibration, served)
    accuracy = verifier.accuracy(served)
    asked = calibration.asked_of_layers()
    best_ms = asked.best_ms(formats, peaks)
    figures = {
        "speedup_vs_fp32": speeds["speedup"],
        **{name: value for name, value in accuracy.to_plain().items() if name != "logit_error"},
        "mfu": best_ms / speeds["widest_ms"],
        "layers": table.to_plain(formats),
        "layers_predicted_speedup": 1.0 / table.predicted(formats),
        "largest": asked.largest(table.times, formats, peaks),
        "layers_ms": {
            "fp32": asked.layers_ms(table.times, {}),
            "tuned": asked.layers_ms(table.times, formats),
        },
        "best_ms": {"request": best_ms, "levels": asked.best_ms(formats, peaks, OF_LEVELS)},
        "other_products_ms": asked.other_flops / peaks.fp32 * 1e3,
        "level_layers_ms": [
            asked.layers_ms(table.times, formats, f"experts.{level}.") for level in range(len(table.model.experts))
        ],
        "plans": speeds["plans"],
        "compiled": {str(level): row for level, row in compiled.items()},
        "verified_on": verifier.num_requests,
        "not_judged": table.unjudged,
        "limits": settings.limits.to_plain(),
        "hardware": hardware.to_plain(),
        "peaks": peaks.to_plain(),
        "torch_threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "intervals": verifier.intervals(served),
    }
    costs = measure_costs(with_model(calibration.full, served), calibration.singles, thread_clock())
    history = float(calibration.singles[0].history_length)
    policy = PrecisionPolicy(
        hardware.fingerprint,
        made_for=model_identity(table.model),
        choices=choices,
        compiled=kept_levels,
        hardware=hardware.to_plain(),
        costs=costs.to_plain(),
        ladder=tuple(_rung(costs.rates(), plan, history) for plan in calibration.plans),
        limits=settings.limits.to_plain(),
        measured={name: figures[name] for name in MEASURED},
    )
    return Tuned(policy, figures), served


def _give_up(compiled: dict[int, dict[str, Any]], reason: str) -> None:
    """What was found of the levels says no longer that they are kept."""
    for row in compiled.values():
        if row["kept"]:
            row |= {"kept": False, "reason": reason}


def _rung(rates: CostRates, widths: Sequence[int], history: float) -> dict[str, Any]:
    """A plan and what it costs by the new cost model."""
    cold, warm = (rates.plan_ms(widths, history, warm=temperature) for temperature in (False, True))
    return {"widths": list(widths), "warm_ms": warm, "cold_ms": cold}


def with_model(full: FullDepth, model: ElasticRanker) -> FullDepth:
    """The same catalogue with another form of the model."""
    other = copy.copy(full)
    other.model = model
    return other

"""The requests that tuning runs on, whole plans timed on them, and levels compiled where that is faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from depthrank.engine.compiled_levels import with_compiled_level
from depthrank.errors import ArtifactError, DataError
from depthrank.model import ElasticRanker
from depthrank.precision import LayerChoice
from depthrank.precision.observed import Seen, observed
from depthrank.training.judge_precision import Judge, Limits
from depthrank.training.replay_requests import FullDepth, HeldOut, OneRequest
from depthrank.training.time_layers import Asked, extended_state, fresh_state, median, run_plan

BATCH_REQUESTS = 8
SHAPED_REQUESTS = 2
TIMED_ROUNDS = 7
WORTH_COMPILING = 1.02  # of a whole request: less is noise
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
    compile: bool = True  # try levels as compiled code, where there is a compiler


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

    def asked_of_layers(self) -> Asked:
        """What the widest plan asks of the layers, the user state warm."""
        one, model = self.singles[0], self.full.model
        whole = fresh_state(self.full, model, one)
        model.encoder.deepen_(whole, model.config.encoder_layers)
        state = extended_state(self.full, model, one, whole)
        widest = max(self.plans, key=sum)
        return Asked.by(model, lambda form: run_plan(self.full, form, one, widest, state))


def widened(one: OneRequest, num_candidates: int) -> OneRequest:
    """The request with its candidates repeated, or cut, to a number: time does not depend on who they are."""
    index = torch.arange(num_candidates) % one.num_candidates
    rows = index.numpy()
    columns = {name: values[rows] for name, values in one.batch.columns.items()}
    batch = replace(one.batch, item_row=one.batch.item_row[rows], label=one.batch.label[rows], columns=columns)
    return OneRequest(one.request, one.candidates.select(index), batch)


def compiled_where_faster(
    calibration: Calibration,
    served: ElasticRanker,
    choices: dict[str, LayerChoice],
    fingerprint: str,
    on_phase: Callable[[str], None],
) -> tuple[ElasticRanker, dict[int, dict[str, Any]]]:
    """The model with those levels compiled that are faster so, over all plans; and what was found of each level."""
    found: dict[int, dict[str, Any]] = {}
    for level in range(served.config.num_levels):
        on_phase(f"compiling level {level}" if level else "compiling the request's side")
        try:
            tried = with_compiled_level(calibration.full.model, served, level, choices, fingerprint)
        except ArtifactError as error:
            found[level] = {"kept": False, "reason": str(error)}
            continue
        ratio = measure_plans(calibration, tried, against=served)["speedup"]
        found[level] = {"kept": ratio > WORTH_COMPILING, "speedup_of_request": ratio}
        served = tried if ratio > WORTH_COMPILING else served
    return served, found


def measure_plans(
    calibration: Calibration, served: ElasticRanker, against: ElasticRanker | None = None
) -> dict[str, Any]:
    """Every plan in fp32 (or another form) and as served, run in turn: medians in milliseconds, and the mean ratio."""
    full, plain = calibration.full, against or calibration.full.model
    found: list[dict[str, Any]] = []
    for widths in calibration.plans:
        for warm in (True, False):
            times: dict[str, list[float]] = {"fp32": [], "served": []}
            for number in range(TIMED_ROUNDS + 1):
                for name, model in (("fp32", plain), ("served", served)):
                    times[name] += _timed(full, model, calibration.singles, widths, warm) if number else []
            ms = {name: median(values) for name, values in times.items()}
            ratio = median(a / b for a, b in zip(times["fp32"], times["served"], strict=True))
            row = {"widths": list(widths), "warm": warm, "speedup": ratio}
            found.append(row | {f"{name}_ms": value for name, value in ms.items()})
    widest = list(max(calibration.plans, key=sum))
    return {
        "plans": found,
        "speedup": sum(row["speedup"] for row in found) / len(found),
        "widest_ms": next(row["served_ms"] for row in found if row["widths"] == widest and row["warm"]),
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

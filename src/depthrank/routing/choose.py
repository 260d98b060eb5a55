"""The choice of a rung: ``argmax_j request_value * stake * share_j - price * cost_j`` within budget and deadline.

Made after level 0 has scored all candidates, from nothing but its inputs: a logged decision replays bit for bit.

Source: DCAF (arXiv 2006.09684).

Legend: J rungs, D levels beyond the router, L levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import FieldProblem, RequestError
from depthrank.routing.cost_rates import CostRates
from depthrank.routing.depth_value import DepthValue
from depthrank.routing.ladder import PlanLadder
from depthrank.routing.plain import fields_of
from depthrank.routing.signals import Signals
from depthrank.schema.request import Mode

DEADLINE_MARGIN = 1.2  # predicted times are right within 20 % at p90
STEPS_BETWEEN_RUNGS = 33
NOTHING_FITS = "nothing deeper than the router fits"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DecisionInputs:
    """Everything a decision is made from.

    ``budget``: at most this fraction of the request's full-depth cost. ``time_left_ms``: after level 0. ``price``: None
    for the policy's own. ``warm``: the user state was cached. ``rates``: None for the policy's own.
    ``request_value``: None for level 0's.
    """

    signals: Signals
    num_candidates: int
    history_length: int
    top: int
    mode: Mode = "adaptive"
    budget: float | None = None
    time_left_ms: float | None = None
    price: float | None = None
    warm: bool = False
    rates: CostRates | None = None
    request_value: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """For the decision record."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rates = None if self.rates is None else self.rates.to_plain()
        return {**plain, "signals": self.signals.to_plain(), "rates": rates}

    @classmethod
    def from_plain(cls, plain: object) -> DecisionInputs:
        """Inverse of ``to_plain``; raises ArtifactError where fields are missing."""
        f = cast(dict[str, Any], fields_of(plain, tuple(cls.__dataclass_fields__), "decision"))
        rates = None if f["rates"] is None else CostRates.from_plain(f["rates"])
        known = {name: f[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "signals": Signals.from_plain(f["signals"]), "rates": rates})


@dataclass(frozen=True)
class Decision:
    """The chosen plan. ``caps``: candidates by level, router first; 0: the level is not run.

    ``cost_ms`` is the predicted cost of the request, ``deeper_ms`` the part after level 0, ``full_ms`` that of full
    depth. ``share``: of full depth's gain, as predicted; ``gain`` in the unit of the value. ``limited_by``: "price",
    "budget", "deadline", where they kept it from going deeper. ``reasons``: the same in words.
    """

    rung: int
    caps: tuple[int, ...]
    confidence: float | None
    cost_ms: float
    deeper_ms: float
    full_ms: float
    share: float
    gain: float
    price: float
    limited_by: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """For the decision record."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}


@dataclass(frozen=True, eq=False)
class Options:
    """The rungs as they are for one request: caps [J, L], cost [J], gain [J] and share [J], cheapest first."""

    caps_JL: Floats
    cost_J: Floats
    share_J: Floats
    stake: float
    full_ms: float

    @property
    def deeper_J(self) -> Floats:
        """Cost beyond level 0."""
        return np.asarray(self.cost_J - self.cost_J[0])


def options_of(inputs: DecisionInputs, ladder: PlanLadder, value: DepthValue, rates: CostRates) -> Options:
    """What each rung would cost this request and keep for it."""
    n, top = inputs.num_candidates, inputs.top
    caps_JD = ladder.caps(n, top)
    caps_JL = np.concatenate((np.full((len(caps_JD), 1), float(n)), caps_JD), axis=1)
    cost_J = _costs(rates, caps_JL, inputs)
    share_J = value.shares_of(inputs.signals, caps_JD, n, top)
    return Options(caps_JL, cost_J, share_J, value.stake_of(inputs.signals), float(cost_J[-1]))


def _costs(rates: CostRates, caps_JL: Floats, inputs: DecisionInputs) -> Floats:
    """What plans cost this request; one with a deadline runs in smaller calls."""
    deadline = inputs.time_left_ms is not None
    return rates.plans_ms(caps_JL, inputs.history_length, warm=inputs.warm, deadline=deadline)


def choose(inputs: DecisionInputs, options: Options, price: float, confidence: float | None) -> Decision:
    """The best rung for one request. Raises RequestError for a budget, a price or a value that is none."""
    check_inputs(inputs, price)
    worth = inputs.signals.request_value if inputs.request_value is None else inputs.request_value
    full_gain = worth * options.stake
    gain_J = full_gain * options.share_J
    last = len(options.cost_J) - 1
    if inputs.mode != "adaptive" or inputs.num_candidates == 0:
        rung = last if inputs.mode == "full" else 0
        return _decided(options, gain_J, rung, price, None, (), (f"mode {inputs.mode}",))
    blind = inputs.signals.num_usable == 0
    wanted = last if blind else int(np.argmax(gain_J - price * options.cost_J))
    limits = _limits(inputs, options)
    allowed_J = np.logical_and.reduce([ok_J for _, ok_J in limits]) if limits else np.ones(last + 1, dtype=np.bool_)
    allowed_J[0] = True  # level 0 has run already
    rung = wanted if allowed_J[wanted] else _best_allowed(gain_J - price * options.cost_J, allowed_J, wanted)
    limited_by = tuple(name for name, ok_J in limits if not ok_J[wanted])
    if wanted < last:
        limited_by = ("price", *limited_by)
    reasons = _reasons(inputs, options, gain_J, rung, wanted, price, limited_by, blind)
    decision = _decided(options, gain_J, rung, price, confidence if not blind else None, limited_by, reasons)
    return _filled(inputs, options, decision, full_gain) if rung < wanted else decision


def check_inputs(inputs: DecisionInputs, price: float) -> None:
    """Raise RequestError where a number cannot be: infinite or negative budgets, NaN values, negative prices."""
    wrong = []
    if inputs.budget is not None and not (math.isfinite(inputs.budget) and inputs.budget > 0):
        wrong.append(FieldProblem("$.budget", f"{inputs.budget!r}", "a fraction of the full-depth cost above 0"))
    if inputs.time_left_ms is not None and math.isnan(inputs.time_left_ms):
        wrong.append(FieldProblem("$.deadline_ms", "NaN", "milliseconds"))
    if not (math.isfinite(price) and price >= 0):
        wrong.append(FieldProblem("$.price", f"{price!r}", "a number from 0"))
    if inputs.request_value is not None and not (math.isfinite(inputs.request_value) and inputs.request_value >= 0):
        wrong.append(FieldProblem("$.request_value", f"{inputs.request_value!r}", "a number from 0"))
    if inputs.top < 1 or inputs.num_candidates < 0:
        wrong.append(FieldProblem("$.top", f"{inputs.top!r} of {inputs.num_candidates!r}", "at least 1"))
    if wrong:
        raise RequestError("no plan can be chosen:", wrong)


def _limits(inputs: DecisionInputs, options: Options) -> list[tuple[str, NDArray[np.bool_]]]:
    """Budget and deadline, each with the rungs it allows."""
    limits: list[tuple[str, NDArray[np.bool_]]] = []
    if inputs.budget is not None:
        limits.append(("budget", options.cost_J <= inputs.budget * options.full_ms * (1 + 1e-12)))
    if inputs.time_left_ms is not None:
        limits.append(("deadline", options.deeper_J * DEADLINE_MARGIN <= inputs.time_left_ms))
    return limits


def _best_allowed(score_J: Floats, allowed_J: NDArray[np.bool_], wanted: int) -> int:
    """The best allowed rung below the wanted one."""
    return int(np.argmax(np.where(allowed_J[: wanted + 1], score_J[: wanted + 1], -np.inf)))


def _filled(inputs: DecisionInputs, options: Options, decision: Decision, full_gain: float) -> Decision:
    """A limit lies between two rungs: the widest plan between them that keeps to it. Where a level begins between them,
    which takes its fixed part at once, the levels before it may still grow."""
    a, b = decision.rung, decision.rung + 1
    t_S = np.linspace(0.0, 1.0, STEPS_BETWEEN_RUNGS)[1:-1, None]
    low_L, high_L = options.caps_JL[a], options.caps_JL[b]
    for target_L in (high_L, np.where(low_L > 0, low_L[0], 0.0)):
        caps_SL = _widened(inputs, low_L, target_L, t_S)
        cost_S = _costs(cast(CostRates, inputs.rates), caps_SL, inputs)
        ok_S = (caps_SL > low_L).any(axis=1)
        if inputs.budget is not None:
            ok_S &= cost_S <= inputs.budget * options.full_ms * (1 + 1e-12)
        if inputs.time_left_ms is not None:
            ok_S &= (cost_S - options.cost_J[0]) * DEADLINE_MARGIN <= inputs.time_left_ms
        fits = np.flatnonzero(ok_S)
        if fits.size:
            break
    else:
        return decision
    best = int(fits[-1])
    share = float(options.share_J[a] + t_S[best, 0] * (options.share_J[b] - options.share_J[a]))
    caps = tuple(int(w) for w in caps_SL[best])
    told = (words for words in decision.reasons[:-1] if words != NOTHING_FITS)
    words = (*told, _plan_in_words(caps, share, float(cost_S[best]) / max(options.full_ms, 1e-12)))
    return replace(
        decision,
        caps=caps,
        cost_ms=float(cost_S[best]),
        deeper_ms=float(cost_S[best] - options.cost_J[0]),
        share=share,
        gain=share * full_gain,
        reasons=words,
    )


def _widened(inputs: DecisionInputs, low_L: Floats, high_L: Floats, t_S: Floats) -> Floats:
    """Whole widths on the way from one plan to another, never below the top n where a level runs, float64 [S, L]."""
    caps_SL = np.floor(low_L + t_S * (high_L - low_L))
    least = float(min(inputs.top, inputs.num_candidates))
    caps_SL[(caps_SL > 0) & (caps_SL < least)] = least
    return np.asarray(caps_SL)


def _decided(
    options: Options,
    gain_J: Floats,
    rung: int,
    price: float,
    confidence: float | None,
    limited_by: tuple[str, ...],
    reasons: tuple[str, ...],
) -> Decision:
    caps = tuple(int(w) for w in options.caps_JL[rung])
    cost, share = float(options.cost_J[rung]), float(options.share_J[rung])
    words = _plan_in_words(caps, share, cost / max(options.full_ms, 1e-12))
    return Decision(
        rung,
        caps,
        confidence,
        cost,
        float(options.deeper_J[rung]),
        options.full_ms,
        share,
        float(gain_J[rung]),
        price,
        limited_by,
        (*reasons, words),
    )


def _plan_in_words(caps: tuple[int, ...], share: float, cost: float) -> str:
    deeper = ", ".join(f"level {d} scores {w:,}" for d, w in enumerate(caps[1:], start=1) if w)
    plan = deeper or "no level beyond the router"
    return f"{plan} of {caps[0]:,} candidates: expected to keep {share:.0%} of the gain for {cost:.0%} of the full cost"


def _reasons(
    inputs: DecisionInputs,
    options: Options,
    gain_J: Floats,
    rung: int,
    wanted: int,
    price: float,
    limited_by: tuple[str, ...],
    blind: bool,
) -> tuple[str, ...]:
    """Why this rung, in words."""
    told: list[str] = []
    if blind:
        told.append("level 0 gave no usable value: nothing to choose by, so as deep as the limits allow")
    elif "price" in limited_by:
        more_gain = float(gain_J[wanted + 1] - gain_J[wanted])
        more_ms = float(options.cost_J[wanted + 1] - options.cost_J[wanted])
        told.append(
            f"price {price:.3g} a ms: one rung deeper would gain {more_gain:.3g} for {more_ms:.3g} ms worth "
            f"{price * more_ms:.3g}"
        )
    if "budget" in limited_by:
        told.append(f"budget {inputs.budget:g} of the full cost allows less than rung {wanted}")
    if "deadline" in limited_by:
        told.append(
            f"deadline: {inputs.time_left_ms:.3g} ms left, rung {wanted} needs {options.deeper_J[wanted]:.3g} ms"
        )
    if rung == 0 and limited_by and limited_by != ("price",):
        told.append(NOTHING_FITS)
    return tuple(told)

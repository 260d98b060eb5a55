"""The end of training: the adaptive policy, fitted by replay of validation requests. Never of test requests.

Bounded in requests and in time; where there is too little to learn from, the artifact has no policy, serves full depth
within budgets, and its report says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from depthrank.artifact import model_identity
from depthrank.model import ElasticRanker
from depthrank.routing import AdaptivePolicy
from depthrank.training.fit_policy import fit_policy
from depthrank.training.measure_costs import measure_costs, thinned_requests, thread_clock
from depthrank.training.replay_requests import FullDepth, HeldOut, OneRequest, replay

MOST_REQUESTS = 400
LEAST_REQUESTS = 40
TIMED_REQUESTS = 12
TIMED_SHARE = 0.2
KEPT_FOR_TIMING = 100


@dataclass(frozen=True)
class FittedPolicy:
    """The policy, or why there is none; and what the report says of it."""

    policy: AdaptivePolicy | None
    report: dict[str, Any]


def fit_by_replay(
    held_out: HeldOut,
    model: ElasticRanker,
    *,
    most_requests: int = MOST_REQUESTS,
    most_seconds: float = 20.0,
    made_for: str | None = None,
    monotonic_s: Callable[[], float] = time.monotonic,
    on_request: Callable[[int, int], None] = lambda done, total: None,
) -> FittedPolicy:
    """Replay at most ``most_requests`` validation requests in at most ``most_seconds``, and fit the policy on them.

    ``made_for``: the identity of the trained model, where ``model`` is it in other formats.
    """
    if model.config.num_levels < 2:
        return _none("the model has one level only")
    loader, count = held_out.requests("validation", most_requests)
    if count < LEAST_REQUESTS:
        return _none(f"{count} validation requests; {LEAST_REQUESTS} are needed: see split in ranking.yaml")
    started = monotonic_s()
    full = FullDepth(held_out.spec, model, held_out.encoder, held_out.items)
    some: list[OneRequest] = []

    def kept() -> Any:
        for one in full.prepared(loader.epoch(0)):
            if len(some) < KEPT_FOR_TIMING:
                some.append(one)
            yield one

    replayed = replay(
        full,
        islice(kept(), most_requests),
        deadline_s=started + (1 - TIMED_SHARE) * most_seconds,
        monotonic_s=monotonic_s,
        on_request=lambda done: on_request(done, count),
    )
    if len(replayed) < LEAST_REQUESTS:
        return _none(f"{len(replayed)} validation requests were replayed in time; {LEAST_REQUESTS} are needed")
    costs = measure_costs(
        full,
        thinned_requests(some, TIMED_REQUESTS),
        thread_clock(),
        deadline_s=monotonic_s() + TIMED_SHARE * most_seconds,
        monotonic_s=monotonic_s,
    )
    most = float(full.weight_K.sum())
    policy = fit_policy(replayed, costs, made_for=made_for or model_identity(model), most=most if most > 0 else 1.0)
    return FittedPolicy(policy, report_of(policy))


def _none(reason: str) -> FittedPolicy:
    return FittedPolicy(None, {"fitted": False, "reason": reason})


def report_of(policy: AdaptivePolicy) -> dict[str, Any]:
    """What the artifact's report says of its policy."""
    at = min(policy.prices, key=lambda p: abs(np.log(p.price / max(policy.default_price, 1e-300))))
    return {
        "fitted": True,
        "rungs": [rung.to_plain() for rung in policy.ladder.rungs],
        "width_power": policy.ladder.power,
        "confidence": policy.confidence,
        "default_price": policy.default_price,
        "cost_at_default_price": at.cost,
        "kept_gain_at_default_price": at.kept_gain,
        "importance": {kind: dict(found) for kind, found in policy.value.importance.items()},
        **policy.fitted,
    }

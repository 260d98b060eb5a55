"""What ``bench_overload`` serves and judges by: a ranker of films with tastes that can be learned, whose router takes a
tenth of full depth or less, and what every plan is worth to every user, known from ranking once at full depth.

MovieLens-100K as ``depthrank demo`` has it, with the preset ``small`` instead of ``demo``: 1,682 films, all of them
candidates of every request. Requests are as of one fixed time, so that what was returned under load can be judged.

Legend: R users, N candidates, J rungs, L levels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.routing import AdaptivePolicy, CostRates
from depthrank.routing.price import bisect_price, choices_at
from depthrank.routing.replayed import Replayed

NUM_USERS = 64
TOP = 10
AS_OF_MS = 1_700_000_000_000
MINUTES = 3.0
FIT_SECONDS = 90.0
NARROW_USERS = 16
NARROW_BUDGETS = (0.1, 0.15, 0.25, 0.5)

Floats = NDArray[np.float64]


def prepare(folder: Path, preset: str = "small", minutes: float = MINUTES) -> tuple[Path, str]:
    """A trained artifact with its plan ladder, and its log; made once a folder."""
    artifact, log = folder / "artifact", f"lmdb:{folder / 'events'}"
    if not (artifact / "manifest.json").exists():
        from depthrank.cli.movielens import cached_wheel, write_dataset
        from depthrank.training import train

        write_dataset(folder, cached_wheel(say=print))
        spec = folder / "ranking.yaml"
        spec.write_text(spec.read_text().replace("model: {preset: demo}", f"model: {{preset: {preset}}}"))
        train(spec, log=log, out=artifact, minutes=minutes, progress=False)
    _fit_where_unfitted(artifact, folder / "ranking.yaml", log)
    return artifact, log


def _fit_where_unfitted(path: Path, spec: Path, log: str) -> None:
    """The plan ladder of an artifact whose training had no time for it, as on a busy machine."""
    from depthrank.artifact import Contents, load_artifact, save_artifact
    from depthrank.data import load_dataset, load_examples
    from depthrank.evaluate.evaluate_artifact import opened_log
    from depthrank.features import Counters
    from depthrank.schema import Spec
    from depthrank.training.fit_by_replay import fit_by_replay
    from depthrank.training.replay_requests import HeldOut

    held = load_artifact(path)
    if held.adaptive is not None:
        return
    given = Spec.load(spec)
    raw = load_dataset(given)
    examples = load_examples(given, raw)
    with opened_log(log, path) as events:
        counters = Counters.rebuild(given, events, raw.items, raw.users)
        held_out = HeldOut(given, examples, held.encoder, events, counters, raw.items, raw.users)
        fitted = fit_by_replay(held_out, held.model, most_seconds=FIT_SECONDS)
    if fitted.policy is None:
        raise SystemExit(f"no plan ladder could be fitted: {fitted.report}")
    training = {**held.manifest.training, "adaptive": fitted.report}
    contents = Contents(
        held.spec, held.model, held.encoder, held.items, held.users, held.manifest.log_position, training=training
    )
    save_artifact(path, dataclasses.replace(contents, adaptive=fitted.policy))


def bodies(users: list[str], deadline_ms: float | None, **fields: Any) -> list[dict[str, Any]]:
    """One request a user, all films its candidates."""
    every = {"candidates": "all", "top": TOP, "time_ms": AS_OF_MS, "deadline_ms": deadline_ms, **fields}
    return [{"user": user, **every} for user in users]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the users afterwards. ``gain_RJ``: what each rung gains over the router, in value at full depth;
    ``cost_RJ``: its predicted thread time in ms, without ``beside_ms``, what a request takes beside its levels.
    ``item_N``: films in the order of ``value_RN``, their values at full depth."""

    users: list[str]
    item_N: list[str]
    value_RN: Floats
    router_R: Floats
    gain_RJ: Floats
    cost_RJ: Floats
    beside_ms: float
    chosen: dict[float, tuple[Floats, Floats]]

    @property
    def full_gain_R(self) -> Floats:
        """What full depth gains."""
        return self.gain_RJ[:, -1]

    def gain_of(self, user: str, items: list[str]) -> float:
        """What an answer gained over the router's."""
        r, place = self.users.index(user), {item: n for n, item in enumerate(self.item_N)}
        value = sum(self.value_RN[r, place[item]] / np.log2(k + 2.0) for k, item in enumerate(items))
        return float(value - self.router_R[r])

    def best(self, row_Q: NDArray[np.int64], capacity_ms: float) -> float:
        """The gain of the knapsack optimum for requests of these users: the sum of their gains at the lowest price at
        which they take ``capacity_ms`` at most, everything known beforehand."""
        gain_QJ, cost_QJ = self.gain_RJ[row_Q], self.cost_RJ[row_Q] + self.beside_ms
        price = bisect_price(capacity_ms / max(len(row_Q), 1), gain_QJ, cost_QJ)
        rung_Q = choices_at(price, gain_QJ, cost_QJ)
        return float(np.take_along_axis(gain_QJ, rung_Q[:, None], axis=1).sum())

    def best_of_policy(self, row_Q: NDArray[np.int64], capacity_ms: float) -> float:
        """The same for the policy's own choices, made from what level 0 tells: one price for all."""
        found = 0.0
        for gain_R, cost_R in self.chosen.values():
            if float((cost_R[row_Q] + self.beside_ms).sum()) <= capacity_ms:
                found = max(found, float(gain_R[row_Q].sum()))
        return found


def users_of(artifact: Path, log: str) -> list[str]:
    """The users that are asked for, in their order."""
    from depthrank.events import open_log

    with open_log(log, read_only=True) as events:
        return sorted(events.some_users(NUM_USERS))


def known_of(artifact: Path, log: str, router_ms: float) -> Known:
    """Rank for every user by the router and at full depth, and work out what each rung would have returned.

    ``router_ms``: what a router's answer takes of the server in all.
    """
    from depthrank.engine.ranker import Ranker
    from depthrank.training.fit_policy import caps_of, costs_of, signals_of_all, worths

    ranker = Ranker.load(artifact, log)
    items = list(ranker.items.ids_of(range(1, ranker.items.size)))
    try:
        policy = ranker.generation.policy
        assert policy is not None and policy.num_levels == 2, "two levels tell what any plan returns"
        users = sorted(ranker.some_users(NUM_USERS))
        value_LRN, history_R = _values(ranker, users)
        _learn_costs(ranker, users[:NARROW_USERS])
        rates = ranker.economy().rates
    finally:
        ranker.close()
    order_RN = np.argsort(-value_LRN[0], axis=1, kind="stable")
    replayed = _replayed(np.take_along_axis(value_LRN, order_RN[None], axis=2), users, history_R)
    caps_RJD = caps_of(policy.ladder, replayed)
    worth_RJ = worths(replayed, caps_RJD)
    gain_RJ, cost_RJ = worth_RJ - worth_RJ[:, :1], costs_of(replayed, rates, caps_RJD)
    scenarios = [policy.scenarios.of({})] * len(users)
    signals = signals_of_all(replayed, scenarios)
    chosen = _chosen(policy, rates, replayed, signals, gain_RJ, cost_RJ)
    beside_ms = router_ms - float(cost_RJ[:, 0].mean())
    return Known(users, items, value_LRN[-1], worth_RJ[:, 0], gain_RJ, cost_RJ, max(beside_ms, 0.0), chosen)


def _values(ranker: Any, users: list[str]) -> tuple[Floats, NDArray[np.int64]]:
    """Values of all films [L, R, N] by level, and history lengths [R]."""
    from depthrank.schema import Request

    n = ranker.items.size - 1
    place = {item: k for k, item in enumerate(ranker.items.ids_of(range(1, ranker.items.size)))}
    value_LRN, history_R = np.zeros((2, len(users), n)), np.zeros(len(users), np.int64)
    for r, user in enumerate(users):
        for level, mode in enumerate(("router", "full")):
            body = bodies([user], None, mode=mode)[0]
            answer = ranker.rank(Request(**{**body, "top": n}), spent=True)
            for item in answer.items:
                value_LRN[level, r, place[item.item]] = item.value
            history_R[r] = answer.spent.history_length
    return value_LRN, history_R


def _learn_costs(ranker: Any, users: list[str]) -> None:
    """Let the cost model see narrow plans too, so that it tells the fixed part of a level from the rest."""
    from depthrank.schema import Request

    for user in users:
        for budget in NARROW_BUDGETS:
            ranker.rank(Request(**bodies([user], None, budget=budget)[0]), price=0.0)


def _replayed(value_LRC: Floats, users: list[str], history_R: NDArray[np.int64]) -> Replayed:
    num_users, n = value_LRC.shape[1:]
    return Replayed(
        value_LRC,
        np.full(num_users, n, np.int64),
        np.ones((num_users, n)),
        np.zeros((num_users, n), np.bool_),
        history_R,
        np.arange(num_users, dtype=np.int64),
        np.full(num_users, AS_OF_MS, np.int64),
        [{} for _ in users],
        TOP,
    )


def _chosen(
    policy: AdaptivePolicy, rates: CostRates, replayed: Replayed, signals: Any, gain_RJ: Floats, cost_RJ: Floats
) -> dict[float, tuple[Floats, Floats]]:
    """Gains and costs [R] of the policy's choices by price."""
    from depthrank.routing import DecisionInputs

    low, high = policy.price_bounds
    found = {}
    for price in np.geomspace(low, high, 60).tolist():
        rungs = [
            policy.decide(
                DecisionInputs(
                    signals=one,
                    num_candidates=int(replayed.count_R[r]),
                    history_length=int(replayed.history_R[r]),
                    top=TOP,
                    price=price,
                    warm=True,
                    rates=rates,
                )
            ).rung
            for r, one in enumerate(signals)
        ]
        rung_R1 = np.array(rungs)[:, None]
        gain_R, cost_R = (np.take_along_axis(x, rung_R1, axis=1)[:, 0] for x in (gain_RJ, cost_RJ))
        found[price] = gain_R, cost_R
    return found

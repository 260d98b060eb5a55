"""What ``bench_overload`` serves and judges by: a ranker of films with tastes that can be learned, whose router takes a
tenth of full depth or less, and what every plan is worth to every user, known from ranking once at full depth.

An artifact that is given, or MovieLens-100K as ``depthrank demo`` has it, with the preset ``small`` and not ``demo``.
Candidates of every request are the same 1,500 films, and requests are as of one fixed time, so that what was returned
under load can be judged.

Legend: R users, Q requests, N candidates, J rungs, L levels, P prices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.routing import AdaptivePolicy, CostRates, DecisionInputs
from depthrank.routing.price import bisect_price, choices_at
from depthrank.routing.replayed import Replayed
from depthrank.routing.signals import Signals
from overload_capacity import PlanCosts

NUM_USERS = 64
NUM_CANDIDATES = 1_500
TOP = 10
AS_OF_MS = 1_700_000_000_000
MINUTES = 3.0
FIT_SECONDS = 90.0

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


def bodies(
    users: Sequence[str], items: Sequence[str], deadline_ms: float | None, **fields: Any
) -> list[dict[str, Any]]:
    """One request a user for these candidates; ids that are numbers go as such, as most catalogues have them."""
    listed = [int(item) if item.isdecimal() else item for item in items]
    every = {"candidates": listed, "top": TOP, "time_ms": AS_OF_MS, "deadline_ms": deadline_ms, **fields}
    return [{"user": user, **every} for user in users]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the users afterwards. ``gain_RJ``: what each rung gains over the router, in value at full depth;
    ``width_RJ``: the candidates that it gives level 1. ``item_N``: films in the order of ``value_RN``, their values at
    full depth. ``chosen_PR``: the rungs that the policy takes by price, from what level 0 tells."""

    users: tuple[str, ...]
    item_N: tuple[str, ...]
    value_RN: Floats
    router_R: Floats
    gain_RJ: Floats
    width_RJ: Floats
    chosen_PR: NDArray[np.int64]

    @property
    def full_gain_R(self) -> Floats:
        """What full depth gains."""
        return self.gain_RJ[:, -1]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {item: n for n, item in enumerate(self.item_N)}

    def gain_of(self, row: int, items: list[str]) -> float:
        """What an answer to a user gained over the router's."""
        place = self._place
        value = sum(self.value_RN[row, place[item]] / np.log2(k + 2.0) for k, item in enumerate(items))
        return float(value - self.router_R[row])

    def best(self, row_Q: NDArray[np.int64], costs: PlanCosts, capacity_ms: float) -> float:
        """The gain of the knapsack optimum for requests of these users: the sum of their gains at the lowest price at
        which they take ``capacity_ms`` of the server's cores at most, everything known beforehand."""
        gain_QJ, cost_QJ = self.gain_RJ[row_Q], costs.of(self.width_RJ)[row_Q]
        price = bisect_price(capacity_ms / max(len(row_Q), 1), gain_QJ, cost_QJ)
        rung_Q = choices_at(price, gain_QJ, cost_QJ)
        return float(np.take_along_axis(gain_QJ, rung_Q[:, None], axis=1).sum())

    def best_of_policy(self, row_Q: NDArray[np.int64], costs: PlanCosts, capacity_ms: float) -> float:
        """The same for the policy's own choices: one price for all."""
        found, rows_R = 0.0, np.arange(len(self.users))
        cost_RJ = costs.of(self.width_RJ)
        for rung_R in self.chosen_PR:
            if float(cost_RJ[rows_R, rung_R][row_Q].sum()) <= capacity_ms:
                found = max(found, float(self.gain_RJ[rows_R, rung_R][row_Q].sum()))
        return found


def known_of(artifact: Path, log: str, folder: Path) -> Known:
    """``ranked_for_all``, kept in ``folder`` for the next run with the same artifact."""
    from depthrank.artifact import read_manifest

    path = folder / f"known-{NUM_CANDIDATES}-{read_manifest(artifact).model_id.rpartition('-')[2]}.npz"
    if path.exists():
        with np.load(path) as kept:
            fields = {name: kept[name] for name in kept.files}
        return Known(**{**fields, "users": tuple(fields["users"].tolist()), "item_N": tuple(fields["item_N"].tolist())})
    known = ranked_for_all(artifact, log)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: np.asarray(getattr(known, name)) for name in Known.__dataclass_fields__})
    return known


def ranked_for_all(artifact: Path, log: str) -> Known:
    """Rank for every user by the router and at full depth, and work out what each rung would have returned."""
    from depthrank.engine.ranker import Ranker
    from depthrank.training.fit_policy import caps_of, signals_of_all, worths

    ranker = Ranker.load(artifact, log)
    every = ranker.items.size - 1
    rows = np.unique(np.linspace(1, every, min(every, NUM_CANDIDATES)).astype(np.int64))
    items = tuple(ranker.items.ids_of(rows.tolist()))
    try:
        policy = ranker.generation.policy
        assert policy is not None and policy.num_levels == 2, "two levels tell what any plan returns"
        users = sorted(ranker.some_users(NUM_USERS))
        ranker.warm()
        value_LRN, history_R = _values(ranker, users, items)
        rates = ranker.economy().rates
    finally:
        ranker.close()
    order_RN = np.argsort(-value_LRN[0], axis=1, kind="stable")
    replayed = _replayed(np.take_along_axis(value_LRN, order_RN[None], axis=2), users, history_R)
    caps_RJD = caps_of(policy.ladder, replayed)
    worth_RJ = worths(replayed, caps_RJD)
    signals = signals_of_all(replayed, [policy.scenarios.of({})] * len(users))
    chosen_PR = _chosen(policy, rates, replayed, signals)
    gain_RJ = worth_RJ - worth_RJ[:, :1]
    return Known(tuple(users), items, value_LRN[-1], worth_RJ[:, 0], gain_RJ, caps_RJD[:, :, 0], chosen_PR)


def _values(ranker: Any, users: Sequence[str], items: Sequence[str]) -> tuple[Floats, NDArray[np.int64]]:
    """Values of the films [L, R, N] by level, and history lengths [R]."""
    from depthrank.schema import Request

    place = {item: k for k, item in enumerate(items)}
    value_LRN, history_R = np.zeros((2, len(users), len(items))), np.zeros(len(users), np.int64)
    for r, user in enumerate(users):
        for level, mode in enumerate(("router", "full")):
            body = bodies([user], items, None, mode=mode)[0]
            answer = ranker.rank(Request(**{**body, "top": len(items)}), spent=True)
            for item in answer.items:
                value_LRN[level, r, place[item.item]] = item.value
            history_R[r] = answer.spent.history_length
    return value_LRN, history_R


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
    policy: AdaptivePolicy, rates: CostRates, replayed: Replayed, signals: Sequence[Signals]
) -> NDArray[np.int64]:
    """The rungs [P, R] of the policy's choices by price, lowest first."""
    low, high = policy.price_bounds
    chosen = [
        [
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
        for price in np.geomspace(low, high, 60).tolist()
    ]
    return np.array(chosen, dtype=np.int64)

"""The policy fitted on planted requests: it finds the signal, keeps its promises, is refused by others, and replays."""

from __future__ import annotations

import json
from dataclasses import replace

import lightgbm
import numpy as np
import pytest

from depthrank.errors import ArtifactError, RequestError
from depthrank.evaluate.rivals import AdaptiveRun, at_cost, fixed_plans, hull_of
from depthrank.routing import AdaptivePolicy, DecisionInputs
from depthrank.training.fit_depth_value import forest_of, isotonic
from depthrank.training.fit_policy import fit_policy, kept_gain_of
from planted_requests import costs, planted

LEVELS = [2, 3]


@pytest.fixture(scope="module")
def policies() -> dict[int, AdaptivePolicy]:
    return {n: fit_policy(planted(levels=n), costs(n), made_for="me", most=1.0) for n in LEVELS}


@pytest.fixture(scope="module")
def policy(policies: dict[int, AdaptivePolicy]) -> AdaptivePolicy:
    return policies[2]


def inputs_of(policy: AdaptivePolicy, r: int = 0, seed: int = 7, **options: object) -> DecisionInputs:
    world = planted(20, seed=seed, levels=policy.num_levels)
    n, history = int(world.count_R[r]), int(world.history_R[r])
    context = world.context_R[r]
    signals = policy.signals(
        world.value_LRC[0, r, :n], 10, history_length=history, time_ms=1_700_000_000_000, context=context
    )
    return DecisionInputs(signals, n, history, 10, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", LEVELS)
def test_rungs_cost_and_keep_more_from_each_to_the_next(policies, levels):
    rungs = policies[levels].ladder.rungs
    assert [r.cost for r in rungs] == sorted(r.cost for r in rungs)
    assert [r.kept_gain for r in rungs] == sorted(r.kept_gain for r in rungs)
    assert rungs[0].kept_gain == 0 and rungs[-1].cost == pytest.approx(1) and len(rungs) >= 5
    if levels == 3:
        assert any(0 < r.widths[1] < r.widths[0] for r in rungs), "a third level narrower than the second pays"


def test_the_signal_that_was_planted_is_the_one_that_matters(policy):
    stake = policy.value.importance["stake"]
    assert max(stake, key=lambda name: stake[name]) in ("history_length", "scenario")
    assert policy.fitted["depth_value"]["stake"]["explained_out_of_fold"] > 0.15
    long, short = (inputs_of(policy, r) for r in (_history_above(50), _history_below(50)))
    assert policy.value.stake_of(long.signals) > 3 * policy.value.stake_of(short.signals)


def _history_above(limit: int) -> int:
    return int(np.argmax(planted(20, seed=7).history_R > limit))


def _history_below(limit: int) -> int:
    return int(np.argmax(planted(20, seed=7).history_R < limit))


@pytest.mark.parametrize("levels", LEVELS)
def test_on_requests_never_seen_the_policy_beats_the_best_fixed_plans_at_its_own_cost(policies, levels):
    policy, world = policies[levels], planted(150, seed=1, levels=levels)
    rates = costs(levels).rates()
    hull = hull_of(planted(levels=levels), fixed_plans(world), rates)
    run = AdaptiveRun(policy, world, rates)
    router, full = world.worth(world.router_top_RX), world.worth(world.full_top_RX)
    for share in (0.15, 0.25):
        outcome = run.at(run.price_for(share * float(run.cost_RJ[:, -1].mean())))
        rival = at_cost(world, hull, rates, float(outcome.cost_R.mean()))
        assert rival is not None
        kept, fixed = (kept_gain_of(w, router, full) for w in (world.worth(outcome.top_RX), rival[0]))
        assert kept > fixed + 0.01, (share, kept, fixed)
        assert float(rival[2].mean()) == pytest.approx(float(outcome.cost_R.mean())), "the rival spends the same"


@pytest.mark.parametrize("levels", LEVELS)
def test_shares_go_from_nothing_to_everything_without_falling(policies, levels):
    policy = policies[levels]
    for r in range(20):
        inputs = inputs_of(policy, r)
        share_J = policy.options(inputs).share_J
        assert share_J[0] == 0 and share_J[-1] == 1 and (np.diff(share_J) >= 0).all()


@pytest.mark.parametrize("levels", LEVELS)
def test_a_logged_decision_replays_bit_for_bit_after_the_costs_have_moved(policies, levels):
    policy = AdaptivePolicy.from_bytes(policies[levels].to_bytes())
    for r in range(8):
        inputs = policy.resolved(inputs_of(policy, r, budget=0.4, time_left_ms=3.0, warm=bool(r % 2)))
        record = json.loads(json.dumps(inputs.to_plain()))
        decided = policy.decide(inputs)
        policy.costs.observe(1, 100, 10, 1_000.0)
        assert policy.decide(DecisionInputs.from_plain(record)) == decided
        assert json.loads(json.dumps(decided.to_plain()))["caps"] == list(decided.caps)


def test_a_dearer_price_never_goes_deeper_and_nothing_goes_deeper_than_at_no_price(policy):
    for r in range(20):
        rungs = [policy.decide(inputs_of(policy, r, price=p)).rung for p in (0.0, 1e-6, 1e-4, 1e-2, 1.0, 1e6)]
        assert rungs == sorted(rungs, reverse=True) and rungs[-1] == 0


def test_a_request_that_is_worth_more_goes_deeper(policy):
    inputs = inputs_of(policy, _history_above(50))
    price = policy.default_price * 30
    costs_ = [policy.decide(replace(inputs, price=price, request_value=v)).cost_ms for v in (0.0, 0.1, 1.0, 100.0)]
    assert costs_ == sorted(costs_) and costs_[0] < costs_[-1]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("budget", [1e-9, 0.1, 0.3, 0.6, 1.0, 5.0])
def test_a_budget_always_wins_and_is_used(policies, levels, budget):
    policy = policies[levels]
    for r in range(10):
        decided = policy.decide(inputs_of(policy, r, budget=budget, price=0.0))
        router = policy.options(inputs_of(policy, r)).cost_J[0]
        assert decided.cost_ms <= max(budget * decided.full_ms * (1 + 1e-9), router)
        if budget >= 1:
            assert decided.caps == (decided.caps[0],) * levels and decided.limited_by == ()
        elif "budget" in decided.limited_by:
            assert any(words.startswith("budget") for words in decided.reasons)
            assert any("nothing deeper" in words for words in decided.reasons) == (decided.caps[1] == 0)
            assert decided.caps[1] == 0 or decided.cost_ms > 0.8 * budget * decided.full_ms, "a gap is filled"


def test_a_deadline_always_wins_and_says_so(policy):
    for left in (-5.0, 0.0, 0.5, 2.0, 1e9):
        decided = policy.decide(inputs_of(policy, 3, time_left_ms=left, price=0.0))
        assert decided.deeper_ms <= max(left, 0.0)
        assert ("deadline" in decided.limited_by) == (left < 100)


def test_fixed_modes_do_not_depend_on_price(policy):
    full = policy.decide(inputs_of(policy, mode="full", price=1e9))
    router = policy.decide(inputs_of(policy, mode="router", price=0.0))
    assert full.caps[0] == full.caps[1] and router.caps[1] == 0 and full.reasons[0] == "mode full"


@pytest.mark.parametrize(
    "wrong", [{"budget": 0.0}, {"budget": -1.0}, {"budget": float("inf")}, {"budget": float("nan")}]
)
def test_impossible_budgets_are_told_with_their_path(policy, wrong):
    with pytest.raises(RequestError, match=r"\$\.budget"):
        policy.decide(inputs_of(policy, **wrong))


def test_prices_and_values_that_are_no_numbers_are_told(policy):
    with pytest.raises(RequestError, match=r"\$\.price"):
        policy.decide(inputs_of(policy, price=float("nan")))
    with pytest.raises(RequestError, match=r"\$\.request_value"):
        policy.decide(inputs_of(policy, request_value=float("inf")))


def test_requests_narrower_than_every_rung_and_empty_ones_are_ordinary(policy):
    values = np.array([0.3, 0.2, np.nan])
    signals = policy.signals(values, 10, history_length=0, time_ms=0)
    few = policy.decide(DecisionInputs(signals, 3, 0, 10, price=0.0))
    assert few.caps == (3, 3) and few.share == 1.0
    none = policy.decide(DecisionInputs(policy.signals(values[:0], 10, history_length=0, time_ms=0), 0, 0, 10))
    assert none.caps == (0, 0)


def test_where_level_0_gave_no_number_at_all_depth_is_all_there_is_to_go_by(policy):
    signals = policy.signals(np.full(40, np.nan), 10, history_length=3, time_ms=0)
    decided = policy.decide(DecisionInputs(signals, 40, 3, 10))
    assert decided.caps == (40, 40) and decided.confidence is None and "no usable value" in decided.reasons[0]


@pytest.mark.parametrize("levels", LEVELS)
def test_a_policy_survives_its_file_with_the_same_decisions(policies, levels):
    policy = policies[levels]
    again = AdaptivePolicy.from_bytes(policy.to_bytes())
    for r in range(10):
        inputs = inputs_of(policy, r, price=policy.default_price)
        assert again.decide(inputs) == policy.decide(inputs)
        assert again.decide(inputs).confidence == policy.confidence


def test_a_policy_made_for_another_model_is_refused(policy):
    policy.check_made_for("me", 2)
    for identity, levels in (("you", 2), ("me", 3)):
        with pytest.raises(ArtifactError, match="made for another model"):
            policy.check_made_for(identity, levels)


def damaged(policy: AdaptivePolicy, path: str, value: object) -> bytes:
    plain = json.loads(policy.to_bytes())
    at, *rest = path.split("/")
    inside = plain
    for name in rest:
        inside, at = inside[int(at) if at.isdigit() else at], name
    inside[int(at) if isinstance(inside, list) else at] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("most", 0.0),
        ("ladder", None),
        ("ladder/rungs/1/widths", [1e300]),
        ("spreads", []),
        ("confidence", 7.0),
        ("value/share/feature/0/0", 999),
        ("value/share/leaf/0", [1.0]),
        ("value/share/threshold", "x"),
        ("value/stake_calibration/x", [3.0, 1.0]),
        ("value/stake_calibration/y", []),
        ("costs/parts", []),
        ("scenarios", [1]),
        ("default_price", -1.0),
        ("prices", []),
        ("prices", [[2.0, 1, 1], [1.0, 1, 1]]),
    ],
)
def test_hostile_policies_are_refused(policy, path, value):
    AdaptivePolicy.from_bytes(policy.to_bytes())
    with pytest.raises(ArtifactError):
        AdaptivePolicy.from_bytes(damaged(policy, path, value))


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b'{"format":1}', b"[" * 100_000])
def test_files_that_are_no_policy_are_refused(raw):
    with pytest.raises(ArtifactError):
        AdaptivePolicy.from_bytes(raw)


def test_trees_as_arrays_give_what_lightgbm_gives():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6))
    y = np.sin(x[:, 0]) + (x[:, 1] > 0.3) * x[:, 2]
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1, "max_depth": 4}, lightgbm.Dataset(x, y), 30)
    assert forest_of(booster).predict(x) == pytest.approx(booster.predict(x), abs=1e-9)


def test_isotonic_calibration_ascends_and_meets_the_means():
    rng = np.random.default_rng(0)
    raw = rng.random(4_000)
    y = (rng.random(4_000) < raw**2).astype(np.float64)
    fitted = isotonic(raw, y, np.ones(4_000))
    assert (np.diff(fitted.y) > 0).all()
    assert fitted(np.array([0.2, 0.8])) == pytest.approx([0.04, 0.64], abs=0.1)


def test_full_depth_that_gains_nothing_still_gives_a_policy_that_decides():
    world = planted(60)
    world.value_LRC[1] = world.value_LRC[0]
    policy = fit_policy(world, costs(), made_for="me", most=1.0)
    again = AdaptivePolicy.from_bytes(policy.to_bytes())
    assert again.decide(inputs_of(policy, price=again.default_price)).caps[1] == 0


def test_gain_of_one_user_alone_still_gives_a_policy_that_decides():
    world = planted(60)
    others = world.user_R != world.user_R[0]
    world.value_LRC[1, others] = world.value_LRC[0, others]
    policy = fit_policy(world, costs(), made_for="me", most=1.0)
    assert AdaptivePolicy.from_bytes(policy.to_bytes()).decide(inputs_of(policy)).caps[0] > 0

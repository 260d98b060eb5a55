"""Trains the value of depth on replayed requests: LightGBM trees, small ones, since requests are few.

Two targets. The stake of a request: the gain of full depth over level 0, relative to its value by level 0. And the
share of that gain which a rung keeps, as a difference to what the rung keeps on average; a row a request and rung,
weighted by the gain at stake, so that the prediction is right where gain is to be had. Predictions out of fold
(requests of a user stay together) calibrate both, stakes by isotonic regression, differences by the factor at which
they err least, and tell whether they are worth anything: what is predicted no better than by its mean is the mean.

Legend: R requests, J rungs, D levels beyond the router.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from depthrank.routing.depth_value import SHARE_NAMES, Calibration, DepthValue, share_features
from depthrank.routing.forest import Forest, no_trees
from depthrank.routing.signals import NAMES, ScenarioEffects, Signals

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DEPTH = 3
STAKE_TREES, SHARE_TREES = 40, 40
FOLDS = 5
MOST_SCENARIOS, LEAST_IN_SCENARIO = 64, 8
SCENARIO_PRIOR = 20.0
MOST_KNOTS = 64
_PARAMETERS: dict[str, Any] = {
    "objective": "regression",
    "learning_rate": 0.1,
    "num_leaves": 2**DEPTH,
    "max_depth": DEPTH,
    "lambda_l2": 5.0,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True, eq=False)
class DepthData:
    """What to learn from: signals and, by rung, caps [R, J, D] and full-depth value of what it returned [R, J]."""

    signals: Sequence[Signals]
    caps_RJD: Floats
    worth_RJ: Floats
    user_R: Ints
    num_candidates_R: Ints
    top: int

    @property
    def stake_R(self) -> Floats:
        """Gain of full depth over the router, relative to the request's value by level 0."""
        value_R = np.array([s.request_value for s in self.signals])
        gain_R = np.maximum(self.worth_RJ[:, -1] - self.worth_RJ[:, 0], 0.0)
        return np.asarray(np.where(value_R > 0, gain_R / np.where(value_R > 0, value_R, 1.0), 0.0))


def fit_depth_value(data: DepthData) -> tuple[DepthValue, dict[str, Any]]:
    """The model, and what is known of it: errors out of fold against the mean's, calibration, importances."""
    fold_R = _folds(data.user_R)
    value_R = np.array([s.request_value for s in data.signals])
    stake, stake_calibration, stake_report = _fit_stake(data, fold_R, value_R)
    share, share_calibration, share_report, base_J = _fit_share(data, fold_R)
    importance = {"stake": stake_report.pop("importance"), "share": share_report.pop("importance")}
    model = DepthValue(stake, share, stake_calibration, share_calibration, importance, base_J)
    return model, {"stake": stake_report, "share": share_report}


def _folds(user_R: Ints) -> Ints:
    """A fold for each request; a user's requests share one."""
    codes = np.unique(user_R, return_inverse=True)[1]
    return np.asarray(np.random.default_rng(0).permutation(codes.max() + 1)[codes] % FOLDS, dtype=np.int64)


def _fit_stake(data: DepthData, fold_R: Ints, value_R: Floats) -> tuple[Forest, Calibration, dict[str, Any]]:
    x_RF = np.array([s.general for s in data.signals])
    target_R = data.stake_R
    most = float(np.quantile(target_R, 0.99))
    return _fitted(x_RF, np.minimum(target_R, most), value_R, fold_R, NAMES, STAKE_TREES, isotonic)


def _fit_share(data: DepthData, fold_R: Ints) -> tuple[Forest, Calibration, dict[str, Any], Floats]:
    """Rows of all rungs between the router alone and full depth; and what each rung keeps on average [J]."""
    gain_R = np.maximum(data.worth_RJ[:, -1] - data.worth_RJ[:, 0], 0.0)
    share_RJ = (data.worth_RJ - data.worth_RJ[:, :1]) / np.where(gain_R > 0, gain_R, 1.0)[:, None]
    share_RJ = np.clip(share_RJ, 0.0, 1.0)
    base_J = gain_R @ share_RJ / max(float(gain_R.sum()), 1e-300)
    rows, targets, weights, folds = [], [], [], []
    for r, signals in enumerate(data.signals):
        caps_JD = data.caps_RJD[r]
        between = (caps_JD[:, 0] > 0) & (caps_JD < data.num_candidates_R[r]).any(axis=1)
        rows.append(share_features(signals, caps_JD, data.top)[between])
        targets.append((share_RJ[r] - base_J)[between])
        weights.append(np.full(between.sum(), gain_R[r]))
        folds.append(np.full(between.sum(), fold_R[r]))
    x, y = np.concatenate(rows), np.concatenate(targets)
    return *_fitted(x, y, np.concatenate(weights), np.concatenate(folds), SHARE_NAMES, SHARE_TREES, scaled), base_J


def _fitted(
    x: Floats,
    y: Floats,
    weight: Floats,
    fold: Ints,
    names: Sequence[str],
    trees: int,
    calibrate: Callable[[Floats, Floats, Floats], Calibration],
) -> tuple[Forest, Calibration, dict[str, Any]]:
    """Trees on everything, calibrated on predictions out of fold; the mean where trees tell no more than it does.

    Rows without weight say nothing (requests of one candidate gain nothing from depth); what is left may be of so few
    users that a fold has none.
    """
    tells = weight > 0
    x, y, weight, fold = x[tells], y[tells], weight[tells], fold[tells]
    weight = weight / weight.mean() if weight.size else weight
    if y.size < 2 * FOLDS or np.unique(fold).size < FOLDS or y.min() == y.max():
        base = float(np.average(y, weights=weight)) if y.size else 0.0
        return _constant(base, {"rows": int(y.size), "used": False, "importance": {}})
    outside = np.empty_like(y)
    outside_mean = np.empty_like(y)
    for k in range(FOLDS):
        inside, out = fold != k, fold == k
        outside[out] = _grow(x[inside], y[inside], weight[inside], names, trees).predict(x[out])
        outside_mean[out] = np.average(y[inside], weights=weight[inside])
    error, error_of_mean = (float(np.average((p - y) ** 2, weights=weight)) for p in (outside, outside_mean))
    explained = 1.0 - error / max(error_of_mean, 1e-300)
    report: dict[str, Any] = {"rows": int(y.size), "explained_out_of_fold": explained, "used": explained > 0}
    booster = _grow(x, y, weight, names, trees)
    gains = booster.feature_importance("gain")
    report["importance"] = {n: float(g / max(gains.sum(), 1e-300)) for n, g in zip(names, gains, strict=True)}
    if explained <= 0:
        return _constant(float(np.average(y, weights=weight)), report)
    calibration = calibrate(outside, y, weight)
    report["calibration_error_out_of_fold"] = _calibration_error(outside, y, weight)
    return forest_of(booster), calibration, report


def _constant(value: float, report: dict[str, Any]) -> tuple[Forest, Calibration, dict[str, Any]]:
    return no_trees(value), Calibration(np.array([value]), np.array([value])), report


def _grow(x: Floats, y: Floats, weight: Floats, names: Sequence[str], trees: int) -> lightgbm.Booster:
    parameters = dict(_PARAMETERS, min_data_in_leaf=max(5, min(20, y.size // 40)))
    dataset = lightgbm.Dataset(x, y, weight=weight, feature_name=list(names), free_raw_data=True)
    return lightgbm.train(parameters, dataset, num_boost_round=trees)


def forest_of(booster: lightgbm.Booster) -> Forest:
    """A booster's trees as arrays, completed to one depth."""
    roots = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    depth = max((_depth(root) for root in roots), default=0)
    inner = 2**depth - 1
    feature = np.zeros((len(roots), inner), dtype=np.int64)
    threshold, leaf = np.zeros((len(roots), inner)), np.zeros((len(roots), inner + 1))
    for t, root in enumerate(roots):
        _place(root, 0, inner, feature[t], threshold[t], leaf[t])
    return Forest(feature, threshold, leaf, 0.0)


def _depth(node: Mapping[str, Any]) -> int:
    return 0 if "leaf_value" in node else 1 + max(_depth(node["left_child"]), _depth(node["right_child"]))


def _place(node: Mapping[str, Any], at: int, inner: int, feature: Ints, threshold: Floats, leaf: Floats) -> None:
    """Write a subtree at heap position ``at``; below an early leaf both branches lead to it."""
    if at >= inner:
        leaf[at - inner] = node["leaf_value"]
        return
    left = right = node
    if "leaf_value" not in node:
        assert node["decision_type"] == "<=", node["decision_type"]
        feature[at], threshold[at] = node["split_feature"], node["threshold"]
        left, right = node["left_child"], node["right_child"]
    _place(left, 2 * at + 1, inner, feature, threshold, leaf)
    _place(right, 2 * at + 2, inner, feature, threshold, leaf)


def isotonic(predicted: Floats, y: Floats, weight: Floats) -> Calibration:
    """The best monotone map from predictions to targets in bins of equal weight (pool adjacent violators)."""
    order = np.argsort(predicted, kind="stable")
    x, y, w = predicted[order], y[order], weight[order]
    bins = np.minimum((np.cumsum(w) / w.sum() * MOST_KNOTS).astype(np.int64), MOST_KNOTS - 1)
    blocks: list[list[float]] = []  # weight, mean x, mean y
    for b in np.unique(bins):
        rows = bins == b
        total = float(w[rows].sum())
        if total <= 0:
            continue
        blocks.append([total, float(x[rows] @ w[rows] / total), float(y[rows] @ w[rows] / total)])
        while len(blocks) > 1 and blocks[-2][2] >= blocks[-1][2]:
            last, before = blocks.pop(), blocks.pop()
            total = last[0] + before[0]
            blocks.append([total, *((last[0] * last[i] + before[0] * before[i]) / total for i in (1, 2))])
    return Calibration(np.array([b[1] for b in blocks]), np.array([b[2] for b in blocks]))


def scaled(predicted: Floats, y: Floats, weight: Floats) -> Calibration:
    """Predictions times the factor up to 1 at which they err least, which is 0 where they tell nothing."""
    square = float(weight @ (predicted * predicted))
    factor = float(np.clip(weight @ (predicted * y) / max(square, 1e-300), 0.0, 1.0))
    return Calibration(np.array([-1.0, 1.0]), np.array([-factor, factor]))


def _calibration_error(predicted: Floats, y: Floats, weight: Floats, num_bins: int = 10) -> float:
    """Weighted mean of |mean prediction - mean target| over bins of the prediction, before calibration."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, predicted)
    total = sum(abs(float(((predicted - y) * weight)[bins == b].sum())) for b in np.unique(bins))
    return total / float(weight.sum())


def fit_scenarios(context_R: Sequence[Mapping[str, Any]], stake_R: Floats) -> ScenarioEffects:
    """What each value of a context column adds to the stake, shrunk towards none where it is rare."""
    by_column: dict[str, dict[str, float]] = {}
    overall = float(stake_R.mean()) if stake_R.size else 0.0
    for column in context_R[0] if context_R else ():
        text = np.array([str(context.get(column))[:100] for context in context_R])
        names, code = np.unique(text, return_inverse=True)
        if len(names) < 2 or len(names) > MOST_SCENARIOS:
            continue
        count = np.bincount(code)
        effect = (np.bincount(code, weights=stake_R) - count * overall) / (count + SCENARIO_PRIOR)
        kept = {str(n): float(e) for n, e, c in zip(names, effect, count, strict=True) if c >= LEAST_IN_SCENARIO}
        if kept:
            by_column[str(column)] = kept
    return ScenarioEffects(by_column)

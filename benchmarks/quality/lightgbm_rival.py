"""LightGBM on the rows of ``rows.py``, tuned with optuna on validation: one model a task, or lambdarank over lists.

Seeds after the first fit the parameters found with another seed of its sampling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import optuna
from gains import grade_of, ndcg_of_gains
from row_matrix import Matrix, tree_matrix
from rows import Dataset, Rows

MAX_TREES = 1_500
PATIENCE = 40


@dataclass(frozen=True, eq=False)
class Tuned:
    """Scores of the test rows (probabilities of a binary task), the best parameters, and what tuning took."""

    test_N: npt.NDArray[np.float64]
    validation_N: npt.NDArray[np.float64]
    parameters: dict[str, Any]
    trees: int
    trials: int
    cpu_s: float
    importance: dict[str, float]


def tune(data: Dataset, task: int | None, *, listwise: bool, trials: int, cpu_limit_s: float, threads: int) -> Tuned:
    """``trials`` trials (fewer where ``cpu_limit_s`` ends first) by loss on validation, or by MRR for lists.

    ``task`` None: lambdarank of grades, which the tasks are, by NDCG@10.
    """
    started = time.process_time()
    matrices = [tree_matrix(data, rows) for rows in (data.train, data.validation, data.test)]
    train = _lightgbm_data(matrices[0], data.train, task, listwise)
    validation = _lightgbm_data(matrices[1], data.validation, task, listwise, train)
    best: dict[str, Any] = {"loss": np.inf}

    def objective(trial: optuna.Trial) -> float:
        parameters = _parameters(trial, listwise, threads)
        model = lgb.train(
            parameters,
            train,
            MAX_TREES,
            valid_sets=[validation],
            callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
        )
        loss = _loss(model.predict(matrices[1].x), data.validation, task, listwise)
        if loss < best["loss"]:
            best.update(loss=loss, model=model, parameters=parameters)
        if time.process_time() - started > cpu_limit_s:
            trial.study.stop()
        return loss

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    model = best["model"]
    gain = model.feature_importance("gain")
    top = sorted(zip(gain, matrices[0].names, strict=True), reverse=True)[:20]
    return Tuned(
        model.predict(matrices[2].x),
        model.predict(matrices[1].x),
        best["parameters"],
        int(model.best_iteration),
        len(study.trials),
        time.process_time() - started,
        {name: float(value) for value, name in top},
    )


def fit(data: Dataset, task: int, *, listwise: bool, parameters: dict[str, Any], seed: int) -> Tuned:
    """The parameters that tuning found, with another seed."""
    started = time.process_time()
    matrices = [tree_matrix(data, rows) for rows in (data.train, data.validation, data.test)]
    train = _lightgbm_data(matrices[0], data.train, task, listwise)
    validation = _lightgbm_data(matrices[1], data.validation, task, listwise, train)
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    model = lgb.train(parameters | {"seed": seed}, train, MAX_TREES, valid_sets=[validation], callbacks=[stop])
    scores = model.predict(matrices[2].x), model.predict(matrices[1].x)
    return Tuned(*scores, parameters, int(model.best_iteration), 0, time.process_time() - started, {})


def _parameters(trial: optuna.Trial, listwise: bool, threads: int) -> dict[str, Any]:
    objective = {"objective": "lambdarank", "metric": "ndcg", "eval_at": [25]} if listwise else {"objective": "binary"}
    return objective | {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.15, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 7, 127, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 500, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "bagging_freq": 1,
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
        "lambda_l1": trial.suggest_float("lambda_l1", 1e-3, 10.0, log=True),
        "cat_smooth": trial.suggest_float("cat_smooth", 5.0, 200.0, log=True),
        "max_bin": 255,
        "feature_pre_filter": False,
        "num_threads": threads,
        "seed": 0,
        "verbose": -1,
    }


def _lightgbm_data(
    matrix: Matrix, rows: Rows, task: int | None, listwise: bool, reference: lgb.Dataset | None = None
) -> lgb.Dataset:
    label = grade_of(rows) if task is None else np.nan_to_num(rows.label[:, task])
    group = None
    if listwise:
        changes = np.flatnonzero(np.r_[True, np.diff(rows.request) != 0, True])
        group = np.diff(changes)
    return lgb.Dataset(
        matrix.x,
        label,
        group=group,
        reference=reference,
        feature_name=list(matrix.names),
        categorical_feature=list(matrix.categorical),
        free_raw_data=False,
        params={"feature_pre_filter": False, "verbose": -1},
    )


def _loss(score_N: npt.NDArray[np.float64], rows: Rows, task: int | None, listwise: bool) -> float:
    from depthrank.metrics import logloss, mean_over_requests, rank_in_request, reciprocal_rank

    if task is None:
        return -float(np.nanmean(ndcg_of_gains(rows, 2.0 ** grade_of(rows) - 1, score_N)))
    label_N = rows.label[:, task]
    if not listwise:
        return logloss(label_N.astype(np.float64), score_N)
    offsets = np.r_[0, np.flatnonzero(np.diff(rows.request)) + 1, len(rows)].astype(np.int64)
    rank = rank_in_request(score_N, offsets)
    return -mean_over_requests(reciprocal_rank(label_N > 0, rank, offsets))

"""How good a ranking is: AUC, GAUC, NE, NDCG, calibration, kept gain and their intervals. Pure numpy."""

from __future__ import annotations

from depthrank.metrics.bootstrap import (
    Interval,
    auc_difference,
    auc_interval,
    bootstrap_users,
    gauc_interval,
    mean_difference,
    mean_interval,
    ne_interval,
    sums_by_user,
)
from depthrank.metrics.calibration import Reliability, expected_calibration_error, reliability
from depthrank.metrics.catalogue_reach import coverage, head_items, long_tail_share
from depthrank.metrics.classification import (
    GAUC_LABEL,
    UserAuc,
    auc,
    auc_per_user,
    gauc,
    logloss,
    normalized_entropy,
    row_logloss,
)
from depthrank.metrics.kept_gain import discounted_value, kept_gain, kept_value, overlap_at_k
from depthrank.metrics.ranking import (
    hit_rate_at_k,
    mean_over_requests,
    mrr,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
)
from depthrank.metrics.requests import rank_in_request, request_of_candidate, top_rows

__all__ = [
    "GAUC_LABEL",
    "Interval",
    "Reliability",
    "UserAuc",
    "auc",
    "auc_difference",
    "auc_interval",
    "auc_per_user",
    "bootstrap_users",
    "coverage",
    "discounted_value",
    "expected_calibration_error",
    "gauc",
    "gauc_interval",
    "head_items",
    "hit_rate_at_k",
    "kept_gain",
    "kept_value",
    "logloss",
    "long_tail_share",
    "mean_difference",
    "mean_interval",
    "mean_over_requests",
    "mrr",
    "ndcg_at_k",
    "ne_interval",
    "normalized_entropy",
    "overlap_at_k",
    "rank_in_request",
    "recall_at_k",
    "reciprocal_rank",
    "reliability",
    "request_of_candidate",
    "row_logloss",
    "sums_by_user",
    "top_rows",
]

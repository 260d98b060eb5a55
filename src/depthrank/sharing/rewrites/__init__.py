"""The rewrites, in the order they are tried. Each takes an operation, declines it with a reason, or passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from depthrank.sharing.rewrites.contract_deferred_products import contract_deferred_products
from depthrank.sharing.rewrites.defer_broadcast_products import defer_broadcast_products
from depthrank.sharing.rewrites.defer_broadcast_sums import defer_broadcast_sums
from depthrank.sharing.rewrites.drop_masked_parts import drop_masked_parts
from depthrank.sharing.rewrites.fold_batch_norm import fold_batch_norm
from depthrank.sharing.rewrites.hoist_request_work import hoist_request_work
from depthrank.sharing.rewrites.keep_concat_unwritten import keep_concat_unwritten
from depthrank.sharing.rewrites.look_up_parts import look_up_parts
from depthrank.sharing.rewrites.move_views_through_concat import move_views_through_concat
from depthrank.sharing.rewrites.normalise_over_concat import normalise_over_concat
from depthrank.sharing.rewrites.push_elementwise_through_concat import push_elementwise_through_concat
from depthrank.sharing.rewrites.reduce_over_concat import reduce_over_concat
from depthrank.sharing.rewrites.share_attention_keys import share_attention_keys
from depthrank.sharing.rewrites.share_picked_rows import share_picked_rows
from depthrank.sharing.rewrites.share_products_with_request import share_products_with_request
from depthrank.sharing.rewrites.split_linear_over_concat import split_linear_over_concat
from depthrank.sharing.rewrites.split_linear_over_sum import split_linear_over_sum
from depthrank.sharing.rewrites.split_products_over_concat import split_products_over_concat
from depthrank.sharing.rewrites.work_along_other_axes import work_along_other_axes
from depthrank.sharing.rewrites.work_before_picking import work_before_picking

PIPELINE: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("keep_concat_unwritten", keep_concat_unwritten),
    ("move_views_through_concat", move_views_through_concat),
    ("look_up_parts", look_up_parts),
    ("drop_masked_parts", drop_masked_parts),
    ("push_elementwise_through_concat", push_elementwise_through_concat),
    ("fold_batch_norm", fold_batch_norm),
    ("work_before_picking", work_before_picking),
    ("defer_broadcast_sums", defer_broadcast_sums),
    ("defer_broadcast_products", defer_broadcast_products),
    ("split_linear_over_concat", split_linear_over_concat),
    ("split_linear_over_sum", split_linear_over_sum),
    ("contract_deferred_products", contract_deferred_products),
    ("reduce_over_concat", reduce_over_concat),
    ("normalise_over_concat", normalise_over_concat),
    ("work_along_other_axes", work_along_other_axes),
    ("share_attention_keys", share_attention_keys),
    ("split_products_over_concat", split_products_over_concat),
    ("share_products_with_request", share_products_with_request),
    ("share_picked_rows", share_picked_rows),
    ("hoist_request_work", hoist_request_work),
)

__all__ = ["PIPELINE"]

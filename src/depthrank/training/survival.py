"""The survival loss: a shallow level keeps what the deepest level would put on top inside the width it hands on.

For the deepest level's top n of a request and a width m, an item survives a shallow level when its score there is among
the m highest. With t_m the m-th highest score, ``-log sigmoid((s - t_m) / T)`` is a smooth price of not surviving; its
mean over the top n, the widths and the requests is the loss. Where candidates were sampled, one counts for as many as
it stands for, so t_m is the threshold among all of them. Recall@m@n relaxed as in ARF (WWW 2024) and LCRON (ICML 2025),
with the threshold instead of a soft permutation: linear in the candidates, and no gradient moves the deepest level.

Legend: R requests, N candidates, C slots a request, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from depthrank.model import CandidateLayout
from depthrank.training.losses import Labels

TOP = 10
TEMPERATURE = 1.0  # in logits


def survival_loss(
    shallow_NK: Tensor, deepest_NK: Tensor, labels: Labels, value_K: Tensor, widths: Sequence[int]
) -> Tensor:
    """Mean over requests, widths and the deepest level's top ``TOP`` of the price of not surviving, a scalar."""
    layout = labels.layout
    shallow_RC = _padded(layout, _log_value(shallow_NK, value_K), -torch.inf)
    deepest_RC = _padded(layout, _log_value(deepest_NK.detach(), value_K), -torch.inf)
    stands_for_RC = _padded(layout, labels.log_importance_N.exp(), 0.0)
    top_RT = deepest_RC.topk(min(TOP, deepest_RC.shape[1]), dim=1).indices
    real_RT = stands_for_RC.gather(1, top_RT) > 0
    sorted_RC, order_RC = shallow_RC.detach().sort(dim=1, descending=True)
    above_RC = stands_for_RC.gather(1, order_RC).cumsum(1)
    total = shallow_NK.new_zeros(())
    for width in widths:
        # the first candidate that, with those above it, stands for `width` items; where all are fewer, all survive
        crossing_R1 = (above_RC < width).sum(1, keepdim=True)
        cut_R1 = crossing_R1 < above_RC.shape[1]
        threshold_R1 = sorted_RC.gather(1, crossing_R1.clamp_max(above_RC.shape[1] - 1))
        counted_RT = real_RT & cut_R1
        margin_RT = (shallow_RC.gather(1, top_RT) - threshold_R1).masked_fill(~counted_RT, 0.0)
        lost_RT = F.softplus(-margin_RT / TEMPERATURE) * counted_RT
        total = total + lost_RT.sum() / counted_RT.sum().clamp_min(1)
    return total / max(1, len(widths))


def _log_value(logits_NK: Tensor, value_K: Tensor) -> Tensor:
    """Log of the value that ranks [N]; for one task the log probability, which orders as the logit does."""
    return (F.logsigmoid(logits_NK) + value_K.log()).logsumexp(1)


def _padded(layout: CandidateLayout, values_N: Tensor, filler: float) -> Tensor:
    """[N] -> [R, C], ``filler`` in unused slots."""
    if layout.num_requests == 1:
        return values_N.unsqueeze(0)
    padded = values_N.new_full((layout.num_requests * layout.num_slots,), filler)
    return padded.index_copy(0, layout.index_N, values_N).view(layout.num_requests, layout.num_slots)

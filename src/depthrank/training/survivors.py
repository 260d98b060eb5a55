"""Which negatives train a deeper level: those it will see, the survivors of the router, and some of the others.

Of the negatives a request could have (the catalogue, or those drawn for it) the router's k highest are taken for
certain and m of the remaining n are drawn without replacement. A taken one stands for itself, a drawn one for n / m, so
a softmax or a weighted log loss over them estimates the one over all without bias. Without that correction the deeper
level learns from survivors alone that whatever the router likes is wrong, and unlearns what the router knows
(docs/log.md).

Legend: R requests, C candidates a request could have, M = k + m taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Picked:
    """``index_RM``: places among the candidates; ``taken_RM``: used; ``log_factor_RM``: log of what one stands for."""

    index_RM: Tensor
    taken_RM: Tensor
    log_factor_RM: Tensor


@torch.no_grad()
def pick_negatives(
    value_RC: Tensor, eligible_RC: Tensor, num_survivors: int, num_others: int, generator: torch.Generator
) -> Picked:
    """At most ``num_survivors`` of the highest values and ``num_others`` random others among those eligible (bool)."""
    slots = value_RC.shape[1]
    top_Rk = value_RC.masked_fill(~eligible_RC, -torch.inf).topk(min(num_survivors, slots), dim=1).indices
    rest_RC = eligible_RC.scatter(1, top_Rk, False)
    keys_RC = torch.rand(value_RC.shape, generator=generator, device=value_RC.device).masked_fill_(~rest_RC, -1.0)
    other_Rm = keys_RC.topk(min(num_others, slots), dim=1).indices
    drawn_R = rest_RC.sum(1).clamp_max(other_Rm.shape[1])
    log_factor_R = (rest_RC.sum(1).clamp_min(1) / drawn_R.clamp_min(1)).log()
    taken_RM = torch.cat((eligible_RC.gather(1, top_Rk), rest_RC.gather(1, other_Rm)), dim=1)
    log_factor_RM = torch.cat(
        (torch.zeros_like(top_Rk, dtype=log_factor_R.dtype), log_factor_R.unsqueeze(1).expand_as(other_Rm)), 1
    )
    return Picked(torch.cat((top_Rk, other_Rm), dim=1), taken_RM, log_factor_RM)

"""Losses of one level: binary per impression, softmax over a request's candidates, and distillation.

Sampled negatives are corrected by importance: a negative drawn n times with probability q_j stands for 1 / (n q_j)
items. Softmax: ``-log( e^s+ / (e^s+ + sum_j e^s_j / (n q_j)) )``, whose denominator is unbiased for the full one
(Bengio and Senecal 2008). Binary: a negative's term is weighted by 1 / (n q_j).

Legend: R requests, N candidates, C candidates a request (padded), K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from depthrank.model import CandidateLayout


@dataclass(frozen=True)
class TaskLoss:
    """How one task is learned; ``value``: its weight in what ranking sorts by."""

    weight: float
    binary: bool
    softmax: bool
    value: float = 1.0


@dataclass
class Labels:
    """Labels [N, K] (NaN: none) and the log importance [N] of each candidate: -log(n q) if sampled, 0 if shown."""

    label_NK: Tensor
    log_importance_N: Tensor
    is_sampled_N: Tensor
    request_of_candidate_N: Tensor
    layout: CandidateLayout


def level_loss(logits_NK: Tensor, labels: Labels, tasks: Sequence[TaskLoss]) -> Tensor:
    """The weighted sum of the tasks' losses, a scalar."""
    total = logits_NK.new_zeros(())
    for k, task in enumerate(tasks):
        if task.binary:
            total = total + task.weight * binary_loss(logits_NK[:, k], labels.label_NK[:, k], labels)
        if task.softmax:
            total = total + task.weight * softmax_loss(logits_NK[:, k], labels.label_NK[:, k], labels)
    return total


def binary_loss(logits_N: Tensor, label_N: Tensor, labels: Labels) -> Tensor:
    """Log loss of all labelled candidates, sampled negatives by importance, per labelled candidate that was shown."""
    known_N = ~label_N.isnan()
    weight_N = labels.log_importance_N.exp() * known_N
    loss_N = F.binary_cross_entropy_with_logits(logits_N, label_N.nan_to_num(), reduction="none")
    shown = (known_N & ~labels.is_sampled_N).sum().clamp_min(1)
    return (loss_N * weight_N).sum() / shown


def softmax_loss(logits_N: Tensor, label_N: Tensor, labels: Labels) -> Tensor:
    """Mean over positives of -log softmax among the positive itself and the request's candidates that are not."""
    hidden = torch.finfo(logits_N.dtype).min
    positive_N = label_N == 1
    against_N = (logits_N + labels.log_importance_N).masked_fill(positive_N | label_N.isnan(), hidden)
    layout = labels.layout
    if layout.num_requests == 1:
        against_R = against_N.logsumexp(0, keepdim=True)
    else:
        size = layout.num_requests * layout.num_slots
        padded = against_N.new_full((size,), hidden).index_copy(0, layout.index_N, against_N)
        against_R = padded.view(layout.num_requests, layout.num_slots).logsumexp(1)
    own = logits_N[positive_N]
    rest = against_R[labels.request_of_candidate_N[positive_N]]
    return F.softplus(rest - own).sum() / positive_N.sum().clamp_min(1)


def distillation_loss(student_NK: Tensor, teacher_NK: Tensor, log_importance_N: Tensor) -> Tensor:
    """Cross-entropy of the student against the deepest level's probabilities (no gradient into the teacher)."""
    target_NK = torch.sigmoid(teacher_NK.detach())
    loss_NK = F.binary_cross_entropy_with_logits(student_NK, target_NK, reduction="none")
    weight_N = log_importance_N.exp()
    return (loss_NK * weight_N.unsqueeze(1)).sum() / (weight_N.sum() * student_NK.shape[1]).clamp_min(1.0)

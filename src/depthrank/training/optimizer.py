"""The step of a training loop: gradients of all processes together, clipped, AdamW at a scheduled rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from depthrank.model import ElasticRanker
from depthrank.schema.settings import TrainingSettings
from depthrank.training.processes import Processes
from depthrank.training.sharded_tables import sharded_weights

GRADIENT_NORM = 1.0
WARM_UP_SHARE = 0.05


class StepOptimizer:
    """Takes steps with the gradients that lie in a model's parameters."""

    def __init__(
        self, model: ElasticRanker, settings: TrainingSettings, total_steps: int, processes: Processes
    ) -> None:
        self.total_steps, self.processes = total_steps, processes
        self.shards = sharded_weights(model)
        sharded = {id(weight) for weight in self.shards}
        self.dense = [p for p in model.parameters() if p.requires_grad and id(p) not in sharded]
        self.adamw = make_optimizer(model, settings)
        self.base_rates = [group["lr"] for group in self.adamw.param_groups]

    def step(self, number: int, loss: float, elapsed: float) -> float:
        """One step; ``elapsed``: the part of the time limit that is over. Returns the loss over all processes."""
        squares = sum((float(weight.grad.square().sum()) for weight in self.shards if weight.grad is not None), 0.0)
        told = torch.tensor([loss, elapsed / self.processes.count, squares])
        self._combine(told)
        loss, elapsed, squares = told.tolist()
        self._clip(squares)
        self._set_rate(number, elapsed)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return loss

    def _combine(self, told: Tensor) -> None:
        """Sums over the processes; a parameter that no process used keeps no gradient, as in one process."""
        if not self.processes.together:
            return
        used = torch.tensor([float(p.grad is not None) for p in self.dense])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.dense]
        self.processes.sum_([told, used, *gradients])
        for parameter, gradient, any_use in zip(self.dense, gradients, used.tolist(), strict=True):
            parameter.grad = gradient if any_use else None

    def _clip(self, squares: float) -> None:
        """Scale all gradients so that their norm is at most ``GRADIENT_NORM``; ``squares``: of the sharded rows'."""
        gradients = [p.grad for p in self.dense if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.shards:
            norm = (norm.square() + squares).sqrt()
        nn.utils.clip_grads_with_norm_([*self.dense, *self.shards], GRADIENT_NORM, norm)

    def _set_rate(self, number: int, elapsed: float) -> None:
        """Linear warm-up, then a cosine to a twentieth, over the steps or, where it is nearer, the time limit."""
        done = max(number / self.total_steps, elapsed)
        warm = min(1.0, number / (WARM_UP_SHARE * self.total_steps) + 1e-3)
        factor = warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
        for group, rate in zip(self.adamw.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor


def make_optimizer(model: ElasticRanker, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices of the dense part only, tables at their own rate."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tables = [p for name, p in learned if name.endswith("table.weight")]
    dense = [p for name, p in learned if not name.endswith("table.weight")]
    groups = [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
        {"params": tables, "weight_decay": 0.0, "lr": settings.table_learning_rate or settings.learning_rate},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)

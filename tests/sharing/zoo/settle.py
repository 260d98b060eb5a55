"""Brings a fresh model into a state in which wrong algebra shows: every bias, scale and batch statistic is non-trivial.

Libraries start embeddings near zero and batch statistics at (0, 1); outputs then hardly vary and any rewrite looks
right. Here embeddings and linears keep the signal's scale, batch statistics come from data, and constant parameters
are perturbed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def settled(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, Tensor]) -> nn.Module:
    """``model`` in eval mode with varied weights and batch statistics measured on the given pairs."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, EMBEDDINGS):
                nn.init.normal_(module.weight, std=0.5)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx].zero_()
            if isinstance(module, nn.Linear) and module.in_features > 1:
                nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
        for parameter in model.parameters():
            varies = not parameter.is_floating_point() or parameter.numel() == 1 or parameter.min() < parameter.max()
            if not varies:
                parameter.add_(0.1 * torch.randn_like(parameter))
        measure_batch_statistics(model, args, kwargs)
    return model.eval()


def measure_batch_statistics(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, Tensor]) -> None:
    """Sets running means and variances to those of one batch, as some training would."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.momentum = 0.9
        norm.train()
    model(*args, **kwargs)
    for norm in norms:
        norm.momentum = 0.1

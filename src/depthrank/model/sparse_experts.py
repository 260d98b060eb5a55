"""A feed-forward part made of several, of which every row runs through one: more weights at the same work.

Top-1 routing (Switch, Fedus et al. 2022) row by row: which expert a candidate takes depends on that candidate alone, so
its score does not depend on the others in its batch. There is no capacity limit and nothing is dropped.

Legend: M rows, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.blocks import SwiGLU


class SparseExperts(nn.Module):
    """``p_e(x) * SwiGLU_e(x)`` with e the most probable expert of each row.

    ``balance``: after a training step, how unevenly it used its experts (1: evenly); a small multiple of it belongs to
    the loss, or a few experts take all.
    """

    def __init__(self, width_in: int, hidden: int, width_out: int, num_experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width_in, num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(width_in, hidden, width_out) for _ in range(num_experts))
        self.width_out = width_out
        self.balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., width_in] -> [..., width_out]; rows of one expert go through it together."""
        x_MD = x.flatten(0, -2)
        share_ME = self.gate(x_MD).softmax(dim=-1)
        weight_M, expert_M = share_ME.max(dim=-1)
        if x.is_meta:  # where shapes alone are computed, every row is of one expert
            return self.experts[0](x) * weight_M.view(*x.shape[:-1], 1)  # type: ignore[no-any-return]
        order_M = expert_M.argsort()
        count_E = torch.bincount(expert_M, minlength=len(self.experts)).tolist()
        sorted_MD = x_MD[order_M]
        parts = [
            expert(rows)
            for expert, rows in zip(self.experts, torch.split(sorted_MD, count_E), strict=True)
            if rows.shape[0]
        ]
        joined_MD = torch.cat(parts) if parts else x_MD.new_zeros(0, self.width_out)
        out_MD: Tensor = torch.empty_like(joined_MD).index_copy(0, order_M, joined_MD)
        out_MD = out_MD * weight_M.unsqueeze(1).to(out_MD.dtype)
        if self.training:
            used_E = torch.tensor(count_E, device=x.device) / max(x_MD.shape[0], 1)
            self.balance = len(self.experts) * (used_E * share_ME.mean(dim=0)).sum()
        return out_MD.view(*x.shape[:-1], self.width_out)

"""The user encoder: a causal transformer over the history, run once a request; every layer leaves its K/V.

Position 0 is a learned start token, so that an empty history has a state too. Time enters as the log-bucketed gap from
event to event; nothing in a token depends on the request, so a state outlives it. Causal with rotary positions: the
state of a prefix is a prefix of the state, which is what lets many requests of one user share one encoding, and a
cached state extend by its new events only.

Legend: S sequences, L history length, P = L + 1 positions, D width, H heads, d head width, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depthrank.model.blocks import Dropout, Rotary, SwiGLU, attend, merge_heads, norm, split_heads
from depthrank.model.config import ModelConfig

NUM_GAP_BUCKETS = 32


@dataclass
class UserState:
    """What the encoder knows of S histories so far: the stream x_SPD after ``depth`` layers, and K/V of each layer."""

    x_SPD: Tensor
    keys_SHPd: list[Tensor]
    values_SHPd: list[Tensor]

    @property
    def depth(self) -> int:
        """Number of layers computed."""
        return len(self.keys_SHPd)


class EncoderLayer(nn.Module):
    """Pre-norm causal self-attention and SwiGLU; QKV is one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = norm(width)
        self.mlp = SwiGLU(width, config.ffn_multiple * width, width)
        self.rotary = Rotary(width // config.heads, config.num_positions)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_SPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next stream [S, P, D] and this layer's rotated keys and values [S, H, P, d]."""
        q, k, v = self.qkv(self.attention_norm(x_SPD)).chunk(3, dim=-1)
        q_SHPd = self.rotary(split_heads(q, self.heads))
        k_SHPd = self.rotary(split_heads(k, self.heads))
        v_SHPd = split_heads(v, self.heads)
        mixed_SPD = merge_heads(attend(q_SHPd, k_SHPd, v_SHPd, causal=True))
        x_SPD = x_SPD + self.dropout(self.out(mixed_SPD))
        x_SPD = x_SPD + self.dropout(self.mlp(self.mlp_norm(x_SPD)))
        return x_SPD, k_SHPd, v_SHPd


class LastLayer(nn.Module):
    """The deepest layer where only levels read it: nobody reads its stream, so it is keys and values alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = norm(config.width)
        self.kv = nn.Linear(config.width, 2 * config.width, bias=False)
        self.rotary = Rotary(config.width // config.heads, config.num_positions)

    def forward(self, x_SPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream unchanged, and rotated keys and values [S, H, P, d]."""
        k, v = self.kv(self.attention_norm(x_SPD)).chunk(2, dim=-1)
        return x_SPD, self.rotary(split_heads(k, self.heads)), split_heads(v, self.heads)


class UserEncoder(nn.Module):
    """History tokens -> UserState, layer by layer: a deeper layer is computed only when a level asks for it."""

    action_bit_A: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.use_time_gaps = config.time_gaps
        self.start_D = nn.Parameter(torch.randn(config.width) * 0.02)
        self.action_AD = nn.Parameter(torch.randn(max(config.num_actions, 1), config.width) * 0.02)
        self.gap = nn.Embedding(NUM_GAP_BUCKETS, config.width)
        nn.init.normal_(self.gap.weight, std=0.02)
        full = [EncoderLayer(config) for _ in range(config.encoder_layers)]
        ends_in_levels = config.encoder_layers > config.router_layers
        self.layers = nn.ModuleList([*full[:-1], LastLayer(config)] if ends_in_levels else full)
        self.dropout = Dropout(config.dropout)
        bits = 2 ** torch.arange(max(config.num_actions, 1), dtype=torch.int64)
        self.register_buffer("action_bit_A", bits, persistent=False)

    def start(self, item_token_SLD: Tensor, actions_SL: Tensor, gaps_SL: Tensor) -> UserState:
        """The state before the first layer.

        ``item_token_SLD``: item tokens of the history, oldest first, right-padded. ``actions_SL``: bit mask over the
        history's actions. ``gaps_SL``: bucket of the time since the event before.
        """
        took_SLA = (actions_SL.to(torch.int64).unsqueeze(-1) & self.action_bit_A).ne(0).to(item_token_SLD.dtype)
        x_SLD = item_token_SLD + took_SLA @ self.action_AD
        if self.use_time_gaps:
            x_SLD = x_SLD + self.gap(gaps_SL.to(torch.int64))
        start_S1D = self.start_D.expand(x_SLD.shape[0], 1, -1)
        return UserState(self.dropout(torch.cat((start_S1D, x_SLD), dim=1)), [], [])

    def deepen_(self, state: UserState, depth: int) -> UserState:
        """Run layers until ``state.depth >= depth``; changes and returns the state."""
        for layer in list(self.layers)[state.depth : depth]:
            state.x_SPD, k_SHPd, v_SHPd = layer(state.x_SPD)
            state.keys_SHPd.append(k_SHPd)
            state.values_SHPd.append(v_SHPd)
        return state

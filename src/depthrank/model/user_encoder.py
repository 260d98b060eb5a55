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

from depthrank.model.blocks import Attention, Dropout, Rotary, SwiGLU, merge_heads, norm, split_heads
from depthrank.model.config import ModelConfig

NUM_GAP_BUCKETS = 32


@dataclass
class UserState:
    """What the encoder knows of S histories so far: the stream x_SPD after ``depth`` layers, and K/V of each layer.

    ``routed_SPD``: the stream after the router's layers, which requests read, however deep the state is by now (None:
    not that deep yet). Tensors are never changed in place, so states may share them.
    """

    x_SPD: Tensor
    keys_SHPd: list[Tensor]
    values_SHPd: list[Tensor]
    routed_SPD: Tensor | None = None

    @property
    def depth(self) -> int:
        """Number of layers computed."""
        return len(self.keys_SHPd)

    @property
    def num_positions(self) -> int:
        """Positions P: the start token and the events."""
        return self.x_SPD.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that its tensors keep alive; what they share counts once."""
        storages = [tensor.untyped_storage() for tensor in self._tensors()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def compact(self) -> UserState:
        """The same in tensors that keep nothing else alive; memory that is its own already is shared."""
        own = {id(tensor): _own(tensor) for tensor in self._tensors()}
        return UserState(
            own[id(self.x_SPD)],
            [own[id(k)] for k in self.keys_SHPd],
            [own[id(v)] for v in self.values_SHPd],
            None if self.routed_SPD is None else own[id(self.routed_SPD)],
        )

    def _tensors(self) -> list[Tensor]:
        routed = [] if self.routed_SPD is None else [self.routed_SPD]
        return [self.x_SPD, *routed, *self.keys_SHPd, *self.values_SHPd]

    def prefix(self, num_positions: int) -> UserState:
        """The state of the first positions alone, as views; by causality what encoding them alone would give."""
        return UserState(
            self.x_SPD[:, :num_positions],
            [k[:, :, :num_positions] for k in self.keys_SHPd],
            [v[:, :, :num_positions] for v in self.values_SHPd],
            None if self.routed_SPD is None else self.routed_SPD[:, :num_positions],
        )


def _own(tensor: Tensor) -> Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


KeysValues = tuple[Tensor, Tensor]


class EncoderLayer(nn.Module):
    """Pre-norm causal self-attention and SwiGLU; QKV is one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention = Attention()
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = norm(width)
        self.mlp = SwiGLU(width, config.ffn_multiple * width, width)
        self.rotary = Rotary(width // config.heads, config.num_positions)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_SPD: Tensor, before: KeysValues | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The next stream [S, P, D] and this layer's rotated keys and values [S, H, B + P, d].

        ``before``: this layer's keys and values of the B positions before x_SPD's.
        """
        qk_SP2, v_SPD = self.qkv(self.attention_norm(x_SPD)).split((2 * x_SPD.shape[2], x_SPD.shape[2]), dim=-1)
        qk_S2Pd = self.rotary(split_heads(qk_SP2, 2 * self.heads), _num_positions(before))
        q_SHPd, k_SHPd = qk_S2Pd.chunk(2, dim=1)
        k_SHPd, v_SHPd = _after(before, k_SHPd, split_heads(v_SPD, self.heads))
        mixed_SPD = merge_heads(self.attention(q_SHPd, k_SHPd, v_SHPd, causal=True))
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

    def forward(self, x_SPD: Tensor, before: KeysValues | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The stream unchanged, and rotated keys and values [S, H, B + P, d]; ``before`` as in EncoderLayer."""
        k_SPD, v_SPD = self.kv(self.attention_norm(x_SPD)).chunk(2, dim=-1)
        k_SHPd = self.rotary(split_heads(k_SPD, self.heads), _num_positions(before))
        return x_SPD, *_after(before, k_SHPd, split_heads(v_SPD, self.heads))


def _num_positions(before: KeysValues | None) -> int:
    return 0 if before is None else before[0].shape[2]


def _after(before: KeysValues | None, k_SHPd: Tensor, v_SHPd: Tensor) -> KeysValues:
    """Keys and values with those of the positions before them in front."""
    if before is None:
        return k_SHPd, v_SHPd
    return torch.cat((before[0], k_SHPd), dim=2), torch.cat((before[1], v_SHPd), dim=2)


class UserEncoder(nn.Module):
    """History tokens -> UserState, layer by layer: a deeper layer is computed only when a level asks for it."""

    action_bit_A: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.use_time_gaps = config.time_gaps
        self.router_layers = config.router_layers
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
        x_SLD = self._tokens(item_token_SLD, actions_SL, gaps_SL)
        start_S1D = self.start_D.expand(x_SLD.shape[0], 1, -1)
        x_SPD = self.dropout(torch.cat((start_S1D, x_SLD), dim=1))
        return UserState(x_SPD, [], [], None if self.router_layers else x_SPD)  # a foreign router has no layers

    def deepen_(self, state: UserState, depth: int) -> UserState:
        """Run layers until ``state.depth >= depth``; changes and returns the state."""
        for number in range(state.depth, min(depth, len(self.layers))):
            state.x_SPD, k_SHPd, v_SHPd = self.layers[number](state.x_SPD)
            state.keys_SHPd.append(k_SHPd)
            state.values_SHPd.append(v_SHPd)
            if number + 1 == self.router_layers:
                state.routed_SPD = state.x_SPD
        return state

    def extend(self, state: UserState, item_token_SLD: Tensor, actions_SL: Tensor, gaps_SL: Tensor) -> UserState:
        """A state of ``state``'s positions and L new ones behind them, in all the layers that ``state`` has.

        Only the new positions are computed: they attend to the keys and values there are. Arguments as in ``start``.
        """
        x_SLD = self.dropout(self._tokens(item_token_SLD, actions_SL, gaps_SL))
        keys: list[Tensor] = []
        values: list[Tensor] = []
        routed_SPD = state.routed_SPD
        if not self.router_layers and routed_SPD is not None:
            routed_SPD = torch.cat((routed_SPD, x_SLD), dim=1)
        for before in zip(state.keys_SHPd, state.values_SHPd, strict=True):
            x_SLD, k_SHPd, v_SHPd = self.layers[len(keys)](x_SLD, before)
            keys.append(k_SHPd)
            values.append(v_SHPd)
            if len(keys) == self.router_layers and routed_SPD is not None:
                routed_SPD = torch.cat((routed_SPD, x_SLD), dim=1)
        return UserState(torch.cat((state.x_SPD, x_SLD), dim=1), keys, values, routed_SPD)

    def _tokens(self, item_token_SLD: Tensor, actions_SL: Tensor, gaps_SL: Tensor) -> Tensor:
        took_SLA = (actions_SL.unsqueeze(-1) & self.action_bit_A).ne(0).to(item_token_SLD.dtype)
        x_SLD = item_token_SLD + took_SLA @ self.action_AD
        return x_SLD + self.gap(gaps_SL) if self.use_time_gaps else x_SLD

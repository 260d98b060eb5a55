"""Packed sequences while a module is traced: recurrent nets over padded rows, each read up to its own length.

``pack_padded_sequence`` sorts the batch by length and lays it out step by step, so its sizes depend on values and
torch.export cannot follow. What it means is fixed, row by row: a recurrent net runs from the first to the last valid
step of each row (the other way round in its second direction), and ``pad_packed_sequence`` fills the rest. So, while a
module is traced, the data of a packed sequence is the padded tensor step by step, [L * B, F], as if every row had every
step, and ``batch_sizes`` stands for the lengths; the nets of the module run layer by layer over that. A loop of the
module's own over ``batch_sizes`` (the AUGRU of DIEN) then takes every step for all rows, and ``last[:rows] = h`` with
the rows of a step writes to those that have it.

Letters: B rows, L steps, F features, H hidden units, K layers x directions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

_VF: Any = torch._VF
_PACK, _PAD = rnn.pack_padded_sequence.__code__, rnn.pad_packed_sequence.__code__
_INVERT = rnn.invert_permutation.__code__
NOT_MINE = object()


class PackedSequences:
    """The packed sequences of one trace; active between ``start`` and ``stop``, which bracket the module's nets."""

    def __init__(self, module: nn.Module) -> None:
        self._nets = [m for m in module.modules() if isinstance(m, (nn.GRU, nn.LSTM, nn.RNN)) and _plain(m)]
        self._lengths: dict[int, tuple[Tensor, Tensor]] = {}  # id of batch_sizes -> (it, lengths [B])
        self._rows_of_step: dict[int, tuple[Any, Tensor]] = {}  # id of a number of rows -> (it, which rows [B])
        self.looped = False  # did the module itself read how many rows have a step?

    def start(self) -> None:
        for net in self._nets:
            net.__dict__["forward"] = self._forward(net, net.forward)

    def stop(self) -> None:
        for net in self._nets:
            net.__dict__.pop("forward", None)

    def answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call that torch's own packing makes, or ``NOT_MINE``."""
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            return self._pack(*args)
        if name == "_pad_packed_sequence" and id(args[1]) in self._lengths:
            return self._pad(*args)
        if name in ("unbind", "tolist", "__getitem__") and id(args[0]) in self._lengths:
            return self._rows_at(args[0], name, args[1:])
        if name not in ("sort", "index_select", "__getitem__", "scatter_"):
            return NOT_MINE
        code = _packing()
        if code is _PACK and name == "sort":
            return args[0], torch.arange(args[0].shape[0])
        if code in (_PACK, _PAD) and name in ("index_select", "__getitem__"):
            return args[0]
        if code is _INVERT and name == "scatter_":
            return args[0].copy_(args[2])
        return NOT_MINE

    def _pack(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        steps_LBF = x.transpose(0, 1) if batch_first else x
        stand_in = lengths.new_empty(steps_LBF.shape[0])
        self._lengths[id(stand_in)] = (stand_in, lengths)
        return steps_LBF.flatten(0, 1), stand_in

    def _rows_at(self, stand_in: Tensor, name: str, index: tuple[Any, ...]) -> Any:
        """How many rows have a step: all of them, at every step; the number remembers which step it is of."""
        self.looped = True
        lengths = self._lengths[id(stand_in)][1]
        if name == "__getitem__":
            return lengths.shape[0] if isinstance(index[0], int) else NOT_MINE
        every = []
        for step in range(stand_in.shape[0]):
            rows = _another(lengths.shape[0])
            self._rows_of_step[id(rows)] = (rows, lengths > step)
            every.append(rows)
        return every

    def write(self, x: Tensor, index: Any, value: Any) -> bool:
        """Was x[:rows] = value written, to the rows that have the step of this number of rows?"""
        if not isinstance(index, slice) or index.step is not None or index.start not in (None, 0):
            return False
        if id(index.stop) not in self._rows_of_step or not isinstance(value, Tensor) or value.dim() != x.dim():
            return False
        has_step = self._rows_of_step[id(index.stop)][1]
        x.copy_(torch.where(has_step.view(-1, *([1] * (x.dim() - 1))), value, x))
        return True

    def _pad(
        self, data: Tensor, batch_sizes: Tensor, batch_first: bool, padding: float, total: int
    ) -> tuple[Tensor, Tensor]:
        lengths = self._lengths[id(batch_sizes)][1]
        data_BLF = _by_row(data, batch_sizes)
        num_steps = data_BLF.shape[1]
        valid = torch.arange(num_steps) < lengths.unsqueeze(1)
        out = data_BLF.masked_fill(~valid.reshape(*valid.shape, *([1] * (data_BLF.dim() - 2))), padding)
        if total > num_steps:
            wide = (0, 0) * (out.dim() - 2) + (0, total - num_steps)
            out = nn.functional.pad(out, wide, value=padding)
        return out if batch_first else out.transpose(0, 1), lengths

    def _forward(self, net: nn.RNNBase, own: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a recurrent net that takes our packed sequences too."""

        def forward(x: Any, hx: Any = None) -> Any:
            if not isinstance(x, rnn.PackedSequence) or id(x.batch_sizes) not in self._lengths:
                return own(x) if hx is None else own(x, hx)
            out, last = _run(net, _by_row(x.data, x.batch_sizes), self._lengths[id(x.batch_sizes)][1], hx)
            return rnn.PackedSequence(out.transpose(0, 1).flatten(0, 1), *x[1:]), last

        return forward


class _Rows(int):
    """A number of rows that is told apart from an equal one."""


def _another(rows: Any) -> Any:
    """The same number as an object of its own."""
    if isinstance(rows, torch.SymInt):
        return torch.SymInt(rows.node)  # type: ignore[no-untyped-call]
    return _Rows(rows)


def _by_row(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """Steps [L * B, F] as [B, L, F]."""
    return data.view(batch_sizes.shape[0], -1, *data.shape[1:]).transpose(0, 1)


def _plain(net: nn.RNNBase) -> bool:
    """Neither a projection nor dropout that is switched on."""
    return net.proj_size == 0 and not (net.training and net.dropout)


def _packing() -> Any:
    """The code of torch's packing that is running now, if any; it calls nothing but torch."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code not in (_PACK, _PAD, _INVERT):
        frame = frame.f_back
    return frame.f_code if frame is not None else None


def _run(net: nn.RNNBase, x: Tensor, lengths: Tensor, hx: Any) -> tuple[Tensor, Any]:
    """x [B, L, F] up to each row's own length: output [B, L, directions * H], last states [K, B, H]."""
    is_lstm = isinstance(net, nn.LSTM)
    steps = torch.arange(x.shape[1])
    backwards_BL = (lengths.unsqueeze(1) - 1 - steps).clamp(min=0)
    last_B1 = (lengths - 1).unsqueeze(1)
    directions = 2 if net.bidirectional else 1
    per_net = len(net._flat_weights) // (net.num_layers * directions)
    states: list[Tensor] = []
    cells: list[Tensor] = []
    for layer in range(net.num_layers):
        outs = []
        for direction in range(directions):
            place = layer * directions + direction
            weights: list[Any] = net._flat_weights[place * per_net : (place + 1) * per_net]
            own = _steps_at(x, backwards_BL) if direction else x
            first = _initial(hx, place, own, net.hidden_size, is_lstm)
            out = _one_layer(net, own, first, weights)
            states.append(_steps_at(out, last_B1)[:, 0])
            if is_lstm:
                cells.append(_steps_at(_cells(own, out, first, weights), last_B1)[:, 0])
            outs.append(_steps_at(out, backwards_BL) if direction else out)
        x = torch.cat(outs, -1) if directions == 2 else outs[0]
    last = torch.stack(states)
    return x, (last, torch.stack(cells)) if is_lstm else last


def _steps_at(x: Tensor, index_BL: Tensor) -> Tensor:
    """The steps of each row that its own indices name."""
    return torch.gather(x, 1, index_BL.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _initial(hx: Any, place: int, x: Tensor, hidden: int, is_lstm: bool) -> tuple[Tensor, ...]:
    """The first state of one layer and direction, [1, B, H]; with its cell for an LSTM."""
    if hx is None:
        zero = x.new_zeros(1, x.shape[0], hidden)
        return (zero, zero) if is_lstm else (zero,)
    return tuple(h[place : place + 1] for h in (hx if is_lstm else (hx,)))


def _one_layer(net: nn.RNNBase, x: Tensor, first: tuple[Tensor, ...], weights: list[Any]) -> Tensor:
    settings = (net.bias, 1, 0.0, False, False, True)
    out: Tensor
    if isinstance(net, nn.LSTM):
        out = _VF.lstm(x, first, weights, *settings)[0]
    elif isinstance(net, nn.GRU):
        out = _VF.gru(x, first[0], weights, *settings)[0]
    else:
        run = _VF.rnn_tanh if net.nonlinearity == "tanh" else _VF.rnn_relu
        out = run(x, first[0], weights, *settings)[0]
    return out


def _cells(x: Tensor, out: Tensor, first: tuple[Tensor, ...], weights: list[Any]) -> Tensor:
    """The cell of an LSTM after every step, [B, L, H], from its outputs: once they are known, gates need none."""
    before = torch.cat([first[0].transpose(0, 1), out[:, :-1]], 1)
    bias = weights[2:] if len(weights) > 2 else [None, None]
    gates = nn.functional.linear(x, weights[0], bias[0]) + nn.functional.linear(before, weights[1], bias[1])
    into, kept, new, _ = gates.chunk(4, -1)
    added, kept = into.sigmoid() * new.tanh(), kept.sigmoid()
    cell, every = first[1][0], []
    for step in range(x.shape[1]):
        cell = kept[:, step] * cell + added[:, step]
        every.append(cell)
    return torch.stack(every, 1)

"""What a foreign module can read: every encoded column by a name that a Python function can have.

A feature's ids are named as its table (``clock.hour`` -> ``clock_hour``), its floats as the feature; the history's
columns are those of its items, ``history_<name>`` (``history_item_<name>`` where that is taken), beside
``history_action``, ``history_gap``, ``history_age`` and ``history_length``. Ids: 0 is padding or missing, 1 unknown to
training.

Legend: R requests, N candidates, L history length, W columns of a multi-valued input, U item rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from depthrank.errors import DepthrankError
from depthrank.features import EncoderLayout, SideLayout
from depthrank.model.inputs import CandidateInputs, ItemSide, RequestInputs

Part = Literal[
    "request_ids", "request_floats", "item_ids", "item_floats", "candidate_ids", "candidate_floats",
    "history_ids", "history_floats", "history_action", "history_gap", "history_age", "history_length",
]  # fmt: skip
OF_THE_HISTORY = frozenset({"history_action", "history_gap", "history_age", "history_length"})
NUM_GAPS, NUM_AGES = 64, 64


@dataclass(frozen=True)
class ForeignInput:
    """One input: columns ``start:stop`` of ``part``; one column has no dimension of its own.

    ``num_rows``: ids are below it (0: floats). ``length``: history positions (0: no history), right-padded with zeros.
    """

    name: str
    part: Part
    start: int = 0
    stop: int = 1
    num_rows: int = 0
    length: int = 0

    @property
    def is_request(self) -> bool:
        """Whether it is the same for all candidates of a request."""
        return self.part.startswith(("request", "history"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions after the batch."""
        width = self.stop - self.start
        return (*((self.length,) if self.length else ()), *((width,) if width > 1 else ()))


def foreign_inputs(layout: EncoderLayout, num_actions: int, history_length: int) -> dict[str, ForeignInput]:
    """Every input there is for this layout, by name; raises DepthrankError where two features share one."""
    found: list[ForeignInput] = []
    for side in ("request", "item", "candidate"):
        found += _side_inputs(side, getattr(layout, side))
    history = [
        ForeignInput(_in_history(i.name), _as_history(i.part), i.start, i.stop, i.num_rows, history_length)
        for i in found
        if i.part.startswith("item")
    ]
    if history_length:
        found += history
        found.append(ForeignInput("history_action", "history_action", num_rows=1 << num_actions, length=history_length))
        found.append(ForeignInput("history_gap", "history_gap", num_rows=NUM_GAPS, length=history_length))
        found.append(ForeignInput("history_age", "history_age", num_rows=NUM_AGES, length=history_length))
        found.append(ForeignInput("history_length", "history_length", num_rows=history_length + 1))
    _check_distinct([i.name for i in found])
    return {i.name: i for i in found}


def _check_distinct(names: list[str]) -> None:
    """Raises DepthrankError where two features would be one argument of a module (``a.b`` and ``a_b``)."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DepthrankError(
            f"two features are both called {twice[0]!r} as inputs of a PyTorch module (whatever is not a letter or a "
            "digit becomes '_'): rename one of them in the spec"
        )


def _side_inputs(side: str, layout: SideLayout) -> list[ForeignInput]:
    ids = [ForeignInput(_name(s.table), f"{side}_ids", s.start, s.stop, s.num_rows) for s in layout.ids]  # type: ignore[arg-type]
    taken = {i.name for i in ids}
    floats = []
    for slot in layout.floats:
        name = _name(slot.feature)
        part = f"{side}_floats"
        floats.append(ForeignInput(f"{name}_value" if name in taken else name, part, slot.start, slot.stop))  # type: ignore[arg-type]
    return ids + floats


def _name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _in_history(name: str) -> str:
    """``history_<name>``, but ``history_item_length`` for an item's ``length``: ``history_length`` is the history's."""
    return f"history_item_{name}" if f"history_{name}" in OF_THE_HISTORY else f"history_{name}"


def _as_history(part: Part) -> Part:
    return "history_ids" if part == "item_ids" else "history_floats"


def example_inputs(inputs: tuple[ForeignInput, ...], rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Made-up pairs over the whole range of ids; histories are right-padded and of one length per pair."""
    draw = torch.Generator().manual_seed(seed)
    longest = max((i.length for i in inputs), default=0)
    length_R = torch.randint(0, longest + 1, (rows,), generator=draw)
    length_R[: min(rows, 2)] = longest
    made = {}
    for i in inputs:
        shape = (rows, *i.shape)
        if i.part == "history_length":
            made[i.name] = length_R.clone()
            continue
        value = (
            torch.randint(0, i.num_rows, shape, generator=draw) if i.num_rows else torch.randn(shape, generator=draw)
        )
        if i.length:
            hidden_RL = torch.arange(i.length) >= length_R.unsqueeze(1)
            value = value.masked_fill(hidden_RL.view(*hidden_RL.shape, *[1] * (value.dim() - 2)), 0)
        made[i.name] = value
    return made


def request_values(inputs: tuple[ForeignInput, ...], request: RequestInputs, items: ItemSide) -> dict[str, Tensor]:
    """The request-side inputs of R requests; ``items`` is what ``request.history_rows_SL`` indexes."""
    history = _History(request)
    out = {}
    for i in inputs:
        if i.part == "request_ids":
            out[i.name] = _columns(request.ids_RI, i).to(torch.int64)
        elif i.part == "request_floats":
            out[i.name] = _columns(request.floats_RF, i)
        elif i.part == "history_length":
            out[i.name] = request.length_R.to(torch.int64).clamp(max=i.num_rows - 1)
        elif i.length:
            out[i.name] = history.values(i, items)
    return out


def candidate_values(
    inputs: tuple[ForeignInput, ...], items: ItemSide, candidates: CandidateInputs
) -> dict[str, Tensor]:
    """The candidate-side inputs of N candidates."""
    out = {}
    for i in inputs:
        if i.part == "item_ids":
            out[i.name] = _columns(_raw(items)[0][candidates.rows_N], i).to(torch.int64)
        elif i.part == "item_floats":
            out[i.name] = _columns(_raw(items)[1][candidates.rows_N], i)
        elif i.part == "candidate_ids":
            out[i.name] = _columns(candidates.ids_NI, i).to(torch.int64)
        elif i.part == "candidate_floats":
            out[i.name] = _columns(candidates.floats_NF, i)
    return out


class _History:
    """The histories of R requests, each a prefix of its sequence, padded to the length a module was captured with."""

    def __init__(self, request: RequestInputs) -> None:
        self._request = request
        self._length_R = request.length_R.to(torch.int64)

    def values(self, i: ForeignInput, items: ItemSide) -> Tensor:
        request, sequence_R = self._request, self._request.sequence_of_request_R
        if i.part == "history_age":
            return self._padded(request.age_RL.to(torch.int64), i).clamp(0, NUM_AGES - 1)
        if i.part == "history_action":
            own_SL = request.actions_SL.to(torch.int64)
        elif i.part == "history_gap":
            own_SL = request.gaps_SL.to(torch.int64).clamp(0, NUM_GAPS - 1)
        else:
            ids_UI, floats_UF = _raw(items)
            source = ids_UI if i.part == "history_ids" else floats_UF
            own_SL = _columns(source[request.history_rows_SL.to(torch.int64)], i)
            own_SL = own_SL.to(torch.int64) if i.num_rows else own_SL
        return self._padded(own_SL if sequence_R is None else own_SL[sequence_R], i)

    def _padded(self, value_RL: Tensor, i: ForeignInput) -> Tensor:
        """To ``length`` positions, zeros beyond the request's own history."""
        own = value_RL[:, : i.length]
        seen_RL = torch.arange(own.shape[1], device=own.device) < self._length_R.unsqueeze(1)
        own = own * seen_RL.view(*seen_RL.shape, *[1] * (own.dim() - 2)).to(own.dtype)
        missing = i.length - own.shape[1]
        if not missing:
            return own
        return torch.cat((own, own.new_zeros(own.shape[0], missing, *own.shape[2:])), dim=1)


def _columns(matrix: Tensor, i: ForeignInput) -> Tensor:
    """The input's columns of [..., columns]; a single one has no dimension of its own."""
    return matrix[..., i.start] if i.stop - i.start == 1 else matrix[..., i.start : i.stop]


def _raw(items: ItemSide) -> tuple[Tensor, Tensor]:
    assert items.ids_UI is not None and items.floats_UF is not None, "item columns are kept where a level is foreign"
    return items.ids_UI, items.floats_UF

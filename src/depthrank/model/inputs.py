"""What the ranker reads: encoded columns as tensors, and how candidates lie in their requests.

Legend: R requests, N candidates (flat, sorted by request), S sequences, L history length, C candidates a request
(padded), U item rows, I id columns, F float columns, D width, K tasks, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class ItemSide:
    """What depends on the item alone, for U rows: precomputed once per model generation when serving.

    The encoded columns themselves are kept only where a level reads them. ``in_order``: row n is candidate n's,
    whatever ``rows_N`` of the candidates says, so nothing is gathered again.
    """

    tokens_UTD: Tensor
    vector_UD: Tensor
    bias_UK: Tensor
    ids_UI: Tensor | None = None
    floats_UF: Tensor | None = None
    in_order: bool = field(default=False, kw_only=True)

    def parts(self) -> tuple[Tensor, ...]:
        """Every tensor there is, in the order of the fields."""
        both = () if self.ids_UI is None or self.floats_UF is None else (self.ids_UI, self.floats_UF)
        return (self.tokens_UTD, self.vector_UD, self.bias_UK, *both)

    def of_candidates(self, part_U: Tensor, rows_N: Tensor) -> Tensor:
        """A part's rows by candidate."""
        return part_U if self.in_order else part_U.index_select(0, rows_N)

    def rows(self, index: Tensor) -> ItemSide:
        """The rows of ``index``."""
        return ItemSide(*(part.index_select(0, index) for part in self.parts()))


@dataclass
class RequestInputs:
    """Request-side columns of R requests and the histories they read.

    ``history_rows_SL`` index the ItemSide given beside it; right-padded, oldest first. ``age_RL`` are age buckets as of
    each request. A request reads the first ``length_R`` events of the sequence ``sequence_of_request_R`` names (None:
    request r reads sequence r).
    """

    ids_RI: Tensor
    floats_RF: Tensor
    history_rows_SL: Tensor
    actions_SL: Tensor
    gaps_SL: Tensor
    age_RL: Tensor
    length_R: Tensor
    sequence_of_request_R: Tensor | None = None

    def select(self, index_R: Tensor) -> RequestInputs:
        """Some of the requests; sequences stay where they are."""
        own = index_R if self.sequence_of_request_R is None else self.sequence_of_request_R[index_R]
        return replace(
            self,
            ids_RI=self.ids_RI[index_R],
            floats_RF=self.floats_RF[index_R],
            age_RL=self.age_RL[index_R],
            length_R=self.length_R[index_R],
            sequence_of_request_R=own,
        )


@dataclass
class RoutedRequests:
    """R requests as the router alone sees them: U distinct rows of request columns, and where each request stands.

    ``row_R``: its row of columns; ``sequence_R`` and ``length_R``: the sequence it reads, and how much of it.
    """

    ids_UI: Tensor
    floats_UF: Tensor
    row_R: Tensor
    sequence_R: Tensor
    length_R: Tensor


@dataclass
class CandidateInputs:
    """Candidate-side columns of N candidates; ``rows_N`` index the ItemSide, ``request_of_candidate_N`` is sorted.

    ``counted_N`` (training): candidates that their request chose, so that transition counts hold that very choice.
    """

    rows_N: Tensor
    ids_NI: Tensor
    floats_NF: Tensor
    request_of_candidate_N: Tensor
    counted_N: Tensor | None = None

    def select(self, index: Tensor) -> CandidateInputs:
        """The candidates of a sorted ``index``: survivors, gathered once."""
        return CandidateInputs(
            self.rows_N.index_select(0, index),
            self.ids_NI.index_select(0, index),
            self.floats_NF.index_select(0, index),
            self.request_of_candidate_N.index_select(0, index),
            None if self.counted_N is None else self.counted_N.index_select(0, index),
        )

    @classmethod
    def joined(cls, parts: Sequence[CandidateInputs]) -> CandidateInputs:
        """Chunks of candidates as one."""
        names = ("rows_N", "ids_NI", "floats_NF", "request_of_candidate_N")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


SHORT_ROWS_PAY = 0.7  # of the slots of one row a request, and below: gathering keys and values again costs too


class CandidateLayout:
    """Flat candidates [N, ...] <-> one padded row of slots a request [R, C, ...]; a view where R == 1.

    ``request_of_row_Q``: which request each row is of where long requests have several (``in_short_rows``), else None;
    ``num_requests`` are rows then.
    """

    request_of_row_Q: Tensor | None = None

    def __init__(self, request_of_candidate_N: Tensor, num_requests: int) -> None:
        self.num_requests = num_requests
        self.num_candidates = request_of_candidate_N.shape[0]
        if num_requests == 1:
            self.num_slots = self.num_candidates
            return
        count_R = torch.bincount(request_of_candidate_N, minlength=num_requests)
        first_R = count_R.cumsum(0) - count_R
        self.num_slots = int(count_R.max()) if self.num_candidates else 0
        slot_N = torch.arange(self.num_candidates, device=first_R.device) - first_R[request_of_candidate_N]
        self.index_N = request_of_candidate_N * self.num_slots + slot_N

    @classmethod
    def in_short_rows(cls, request_of_candidate_N: Tensor, num_requests: int) -> CandidateLayout:
        """A layout in which few long requests do not widen the rows of all others: they take several rows."""
        layout = cls(request_of_candidate_N, num_requests)
        if num_requests == 1 or not layout.num_candidates:
            return layout
        count_R = torch.bincount(request_of_candidate_N, minlength=num_requests)
        widths_W = count_R.unique()  # type: ignore[no-untyped-call]
        widths_W = widths_W[widths_W > 0]
        slots_W = (-(-count_R // widths_W.unsqueeze(1))).sum(1) * widths_W
        best = int(slots_W.argmin())
        if int(slots_W[best]) > SHORT_ROWS_PAY * num_requests * layout.num_slots:
            return layout
        width = int(widths_W[best])
        rows_R = -(-count_R // width)
        place_N = layout.index_N % layout.num_slots
        row_N = (rows_R.cumsum(0) - rows_R)[request_of_candidate_N] + place_N // width
        layout.request_of_row_Q = torch.repeat_interleave(torch.arange(num_requests, device=rows_R.device), rows_R)
        layout.num_requests, layout.num_slots = int(rows_R.sum()), width
        layout.index_N = row_N * width + place_N % width
        return layout

    def pad(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [R, C, D], zeros in unused slots."""
        if self.num_requests == 1:
            return x_ND.unsqueeze(0)
        padded = x_ND.new_zeros(self.num_requests * self.num_slots, x_ND.shape[-1])
        return padded.index_copy(0, self.index_N, x_ND).view(self.num_requests, self.num_slots, x_ND.shape[-1])

    def unpad(self, x_RCD: Tensor) -> Tensor:
        """[R, C, D] -> [N, D]."""
        if self.num_requests == 1:
            return x_RCD.squeeze(0)
        return x_RCD.flatten(0, 1)[self.index_N]

"""Candidates in rows of slots: every candidate in a slot of its own, in a row of its own request."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from depthrank.model import CandidateLayout


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_short_rows_hold_every_candidate_once_in_a_row_of_its_request_and_fewer_slots(counts):
    request_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    plain, short = CandidateLayout(request_N, len(counts)), CandidateLayout.in_short_rows(request_N, len(counts))
    x_ND = torch.arange(1.0, len(request_N) + 1).unsqueeze(1)
    padded = short.pad(x_ND)
    assert torch.equal(short.unpad(padded), x_ND)
    assert torch.count_nonzero(padded) == len(request_N)
    assert padded.shape[0] * padded.shape[1] <= max(1, len(counts)) * plain.num_slots
    of_row = torch.arange(padded.shape[0]) if short.request_of_row_Q is None else short.request_of_row_Q
    of_slot = of_row.unsqueeze(1).expand(padded.shape[:2])[padded.squeeze(-1) > 0]
    assert torch.equal(of_slot.sort().values, request_N)


def test_one_long_request_among_short_ones_takes_several_rows():
    request_N = torch.repeat_interleave(torch.arange(10), torch.tensor([4] * 9 + [40]))
    layout = CandidateLayout.in_short_rows(request_N, 10)
    assert (layout.num_requests, layout.num_slots) == (19, 4)
    even = CandidateLayout.in_short_rows(torch.repeat_interleave(torch.arange(10), 5), 10)
    assert even.request_of_row_Q is None and even.num_requests == 10

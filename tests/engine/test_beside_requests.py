"""Long work beside requests: in small pieces, with rests only while there are requests."""

from __future__ import annotations

import numpy as np
import pytest

from depthrank.engine.beside_requests import PIECE_ROWS, SHARE_OF_TIME, BesideRequests


class Times:
    """A clock that moves by a second a look, and what was slept."""

    def __init__(self) -> None:
        self.now_s, self.slept_s = 0.0, 0.0
        self.beside = BesideRequests(clock_s=self._clock, sleep=self._sleep)

    def _clock(self) -> float:
        self.now_s += 1.0
        return self.now_s

    def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds


@pytest.mark.parametrize("rows", [0, 1, PIECE_ROWS, PIECE_ROWS + 1, 5 * PIECE_ROWS - 1])
def test_pieces_are_all_rows_in_order(rows):
    pieces = list(Times().beside.pieces(np.arange(rows)))
    assert np.array_equal(np.concatenate(pieces), np.arange(rows))
    assert len(pieces) == max(1, -(-rows // PIECE_ROWS)) and max(map(len, pieces)) <= PIECE_ROWS


def test_work_rests_while_one_long_request_runs():
    times = Times()
    with times.beside.request():
        assert len(list(times.beside.pieces(np.arange(3 * PIECE_ROWS)))) == 3
    assert times.slept_s == pytest.approx(3.0 * (1 / SHARE_OF_TIME - 1))


def test_work_rests_after_a_piece_in_which_a_request_came_and_went():
    times = Times()
    for number, _ in enumerate(times.beside.pieces(np.arange(3 * PIECE_ROWS))):
        if number == 1:
            with times.beside.request():
                pass
    assert times.slept_s == pytest.approx(1 / SHARE_OF_TIME - 1)


def test_work_does_not_rest_where_nobody_waits_any_more():
    times = Times()
    with pytest.raises(ValueError, match="of the request"), times.beside.request():
        raise ValueError("of the request")
    assert len(list(times.beside.pieces(np.arange(3 * PIECE_ROWS)))) == 3
    assert times.slept_s == 0.0


def test_a_rest_is_whole_while_requests_are_served_and_short_otherwise():
    times = Times()
    times.beside.rest(10.0)
    with times.beside.request():
        times.beside.rest(10.0)
    with times.beside.request():
        pass
    times.beside.rest(10.0)
    times.beside.rest(10.0)
    assert times.slept_s == pytest.approx(1.0 + 10.0 + 10.0 + 1.0)

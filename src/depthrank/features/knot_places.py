"""Between which knots numbers lie, without a search: a search guesses at every step which way to go, and is wrong half
of the time, 50 ns a number; this reads a table.

The range of the knots is cut into cells: even ones, or, where most knots stand close to zero (prices), cells whose
width grows with the number, as a float's own steps do. Of each cell is known how many knots lie in cells before it;
those of the cell itself, at most ``MOST_STEPS``, are compared with. A number is put into its cell by the same
arithmetic as the knots, which keeps their order, so the result is exact. Knots that no grid tells apart are searched.

Legend: N numbers, K knots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Int64 = NDArray[np.int64]
CellOf = Callable[[Floats], Int64]

EVEN_CELLS = (1_024, 4_096, 16_384)
MOST_CELLS = EVEN_CELLS[-1]
GOOD_STEPS, MOST_STEPS = 2, 4
FEW = 32
"""Up to so many numbers are searched: that is fewer calls."""


class Places:
    """``knots`` float64 [K], ascending and distinct."""

    def __init__(self, knots: Floats) -> None:
        self._knots = knots
        self._ahead = np.append(knots, np.inf)
        self._steps, self._before = MOST_STEPS + 1, np.zeros(0, np.int64)
        for cell_of in _grids(knots):
            cell_K = cell_of(knots)
            steps = int(np.bincount(cell_K).max())
            if steps < self._steps:
                self._cell_of, self._steps = cell_of, steps
                self._before = cell_K.searchsorted(np.arange(cell_K[-1] + 1))
            if steps <= GOOD_STEPS:
                break

    def of(self, x_N: Floats) -> Int64:
        """The last knot that is not above each number, int64 [N]; numbers lie between the first and the last knot."""
        if not len(self._before) or len(x_N) <= FEW:
            return self._knots.searchsorted(x_N, side="right") - 1
        place_N = self._before.take(self._cell_of(x_N), mode="clip")
        for _ in range(self._steps):
            place_N += self._ahead.take(place_N) <= x_N
        return place_N - 1


def _grids(knots: Floats) -> Iterator[CellOf]:
    """Ways to cut the range, the smallest tables first; none of fewer than three knots, or of a range beyond floats."""
    if len(knots) < 3:
        return
    low, span = float(knots[0]), float(knots[-1] - knots[0])
    if 1e-300 < span < 1e300:
        for cells in EVEN_CELLS:
            yield partial(_even_cells, low, (cells - 1) / span)
    if low >= 0.0:
        first, last = knots[1:].view(np.int64)[[0, -1]].tolist()  # of floats above zero, in the order of the floats
        shift = next(bits for bits in range(64) if (last >> bits) - (first >> bits) < MOST_CELLS - 1)
        yield partial(_growing_cells, (first >> shift) - 1, shift)


def _even_cells(low: float, per_unit: float, x_N: Floats) -> Int64:
    cell_N: Int64 = ((x_N - low) * per_unit).astype(np.int64)
    return cell_N


def _growing_cells(before: int, shift: int, x_N: Floats) -> Int64:
    """Cell 0 is what lies below the second knot: from zero on there would be as many as a float has exponents."""
    cell_N: Int64 = np.maximum((x_N.view(np.int64) >> shift) - before, 0)
    return cell_N

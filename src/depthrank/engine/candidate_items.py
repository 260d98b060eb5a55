"""The item side of a request's candidates, gathered when a level reads it: vectors for all, tokens for survivors only.

Foreign levels read items' encoded columns at any depth, so with one of them everything is gathered at once.

Legend: N candidates.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.engine.item_store import ItemSnapshot
from depthrank.model import CandidateInputs, CandidateState, ElasticRanker, ItemSide


class CandidateItems:
    """``inputs`` index the candidates' own rows, in their order."""

    def __init__(
        self, model: ElasticRanker, snapshot: ItemSnapshot, rows_N: NDArray[np.int64], inputs: CandidateInputs
    ) -> None:
        self._model, self._snapshot, self._rows_N = model, snapshot, rows_N
        self.inputs = inputs

    @cached_property
    def whole(self) -> ItemSide:
        """Every part of every candidate."""
        return self._snapshot.side(self._rows_N)

    def for_router(self, index: NDArray[np.int64]) -> tuple[ItemSide, CandidateInputs]:
        """What level 0 reads of some candidates, ``index`` ascending."""
        part = self.inputs if index.size == self._rows_N.size else self.inputs.select(torch.from_numpy(index))
        if self._model.config.foreign:
            return self.whole, part
        return self._snapshot.for_router(self._rows_N[index]), part

    def start(self, index: NDArray[np.int64]) -> CandidateState:
        """The states before level 1 of some candidates."""
        part = self.inputs.select(torch.from_numpy(index))
        if self._model.config.foreign:
            return self._model.start(self.whole, part)
        return self._model.start(self._snapshot.for_levels(self._rows_N[index]), part)

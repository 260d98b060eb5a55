"""The candidates of a request as catalogue rows and columns; ids are looked up only for what is shown.

Legend: N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue
from depthrank.schema import Request


@dataclass(frozen=True)
class CandidateRows:
    """N candidates: rows int64 [N] (0: unknown item), and the columns that came with them."""

    rows: NDArray[np.int64]
    columns: Mapping[str, Sequence[Any]]
    ids: Sequence[str] | NDArray[np.int64] | None
    items: Catalogue = field(repr=False)

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def id_of(self, candidate: int) -> str:
        """The candidate's id as it was given (as text), or the catalogue's where all were asked for."""
        if self.ids is not None:
            return str(self.ids[candidate])
        return self.items.ids_of(self.rows[candidate : candidate + 1])[0]


def resolve_candidates(request: Request, items: Catalogue, size: int) -> CandidateRows:
    """Rows of a checked request's candidates; "all" is every catalogue row below ``size`` but the unknown item.

    ``size``: rows whose item side is encoded. An item that came into the catalogue since then is unknown as yet.
    """
    given = request.candidates
    if isinstance(given, str):
        return CandidateRows(np.arange(1, size, dtype=np.int64), {}, None, items)
    columns: Mapping[str, Any] = {}
    listed: Any = given
    if isinstance(given, dict):
        listed = given["item"]
        columns = {name: values for name, values in given.items() if name != "item"}
    if isinstance(listed, np.ndarray):
        return CandidateRows(_below(items.rows_of_integers(listed), size), columns, listed, items)
    ids = listed if set(map(type, listed)) <= {str} else [str(i) for i in listed]
    return CandidateRows(_below(items.row_of(ids), size), columns, ids, items)


def _below(rows_N: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The rows, 0 for those that are not encoded yet; most often there are none."""
    return rows_N if rows_N.max(initial=0) < size else np.where(rows_N < size, rows_N, 0)

"""Rows that could not be had while a request was ranked: what stood in for them is said in its answer.

Legend: n row numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from depthrank.errors import CapacityError

_NOTED: ContextVar[list[str] | None] = ContextVar("missing_rows", default=None)


@contextmanager
def noting_missing_rows() -> Iterator[list[str]]:
    """Lookups meanwhile, in this thread, may lack rows; the list says which, each reason once."""
    noted: list[str] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def note_missing(reason: str) -> None:
    """Rows are missing for ``reason``; raises CapacityError where nobody is ready to answer without them."""
    noted = _NOTED.get()
    if noted is None:
        raise CapacityError(f"{reason}; what is computed now would be kept, so it needs all rows: try again")
    if reason not in noted:
        noted.append(reason)

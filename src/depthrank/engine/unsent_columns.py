"""Columns that the model reads and a request does not carry: ranked as missing values, and the answer says so.

A request that lacks a column is ordinary (it may be unknown for this one), and one in which it is misspelt looks the
same: nobody would see why answers are poor. A column that is sent with nulls is not told.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from itertools import islice

from depthrank.errors import did_you_mean
from depthrank.schema import Request, Spec
from depthrank.schema.spec_reads import columns_read

MOST = 20
MOST_COMPARED, LONGEST_COMPARED = 50, 100  # names that a missing one may be misspelt as, and their characters
AS_MISSING = "not sent, though the model reads it: ranked as a missing value"
Names = frozenset[str]


class UnsentColumns:
    """What a model reads of its requests."""

    def __init__(self, spec: Spec) -> None:
        read = columns_read(spec)
        self._context, self._candidates = frozenset(read.context), frozenset(read.candidates)

    def warnings(self, request: Request) -> list[str]:
        """A line for each missing column, with the name that was probably meant by another one."""
        sent: Collection[str] = request.candidates.keys() if isinstance(request.candidates, dict) else ()
        told = _told("$.context", self._context, request.context.keys())
        told += _told("$.candidates", self._candidates, sent)
        return list(told[:MOST])


def _told(path: str, read: Names, sent: Collection[str]) -> tuple[str, ...]:
    missing = read.difference(sent)
    if not missing:
        return ()
    unread = (name for name in sent if name not in read and name != "item" and len(name) <= LONGEST_COMPARED)
    return _lines(path, missing, frozenset(islice(unread, MOST_COMPARED)))


@lru_cache(256)  # whoever leaves something out does it in every request
def _lines(path: str, missing: Names, unread: Names) -> tuple[str, ...]:
    meant = {name: did_you_mean(name, unread) for name in sorted(missing)}
    hints = {name: f" (did you mean it by {other!r}?)" if other else "" for name, other in meant.items()}
    return tuple(f"{path}.{name}: {AS_MISSING}{hint}" for name, hint in hints.items())

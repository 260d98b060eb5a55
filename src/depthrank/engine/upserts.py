"""Catalogue upserts in the event log: what was acknowledged is there after a restart and in the next training run.

An upsert is stored as msgpack of its columns, as they came. It is applied again in the log's order, over the catalogue
of the artifact or of the items file; applying one twice changes nothing. Upserts win over the items file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Catalogue
from depthrank.errors import FieldProblem, LogError, RequestError
from depthrank.events import EventLog

_BIG_INT = 1  # extension type: hexadecimal digits, as msgpack's own integers end at 64 bits


@dataclass(frozen=True)
class Replay:
    """Upserts applied, and those whose values no longer fit the catalogue (a column changed its type since).

    ``last``: the number of the newest (-1: none); ``rows``: catalogue rows that were changed, ascending.
    """

    applied: int
    refused: int
    last: int = -1
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)

    def __add__(self, newer: Replay) -> Replay:
        """Both; the rows are those of neither, as they have been published."""
        return Replay(self.applied + newer.applied, self.refused + newer.refused, max(self.last, newer.last))


def pack_upsert(columns: Mapping[str, Sequence[object]]) -> bytes:
    """The columns of a checked upsert as stored; raises RequestError for text that is not Unicode."""
    try:
        return _encoder.encode({name: _plain(values) for name, values in columns.items()})
    except UnicodeEncodeError as error:
        problem = FieldProblem("$", repr(error.object[error.start : error.end]), "Unicode text without lone surrogates")
        raise RequestError("the upsert changes nothing:", [problem]) from None


def unpack_upsert(payload: bytes) -> dict[str, list[object]]:
    """The columns again; raises LogError for bytes that are none."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError) as error:
        raise LogError(f"an upsert in the event log is damaged: {error}") from None


def replay_upserts(items: Catalogue, log: EventLog, after: int = -1) -> Replay:
    """Apply the upserts of ``log`` with a number above ``after``, in order. Columns that the catalogue no longer has
    are left out."""
    applied = refused = 0
    changed = [np.zeros(0, np.int64)]
    known = {items.entity, items.id_column, *items.column_names}
    for number, payload in log.upserts(after):
        after = number
        columns = unpack_upsert(payload)
        try:
            result = items.upsert({name: values for name, values in columns.items() if name in known})
            changed.append(np.asarray(result.rows, np.int64))
            applied += 1
        except (
            RequestError
        ):  # counted and shown by ``Ranker.info``: one old upsert must not keep a server from starting
            refused += 1
    return Replay(applied, refused, after, np.unique(np.concatenate(changed)))


def _plain(value: Any) -> Any:
    """Arrays and scalars of numpy and pyarrow as lists and Python values."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value) if -(2**63) <= value < 2**63 else msgspec.msgpack.Ext(_BIG_INT, format(value, "x").encode())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    for name in ("to_pylist", "as_py"):
        if hasattr(value, name):
            return _plain(getattr(value, name)())
    return value


def _ext(code: int, data: memoryview) -> int:
    if code != _BIG_INT:
        raise ValueError(f"extension type {code}")
    return int(bytes(data), 16)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, list[Any]], ext_hook=_ext)

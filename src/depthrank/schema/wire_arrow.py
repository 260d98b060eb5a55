"""An Arrow IPC stream to the plain data of a rank request: candidates as its columns, the rest as JSON beside them.

The schema's metadata holds, under ``depthrank``, a JSON object with the other fields (``user``, ``context``, ...).
Columns of numbers become arrays without a copy where they are int64 or float64.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa

from depthrank.errors import FieldProblem, RequestError
from depthrank.schema.request import Limits
from depthrank.schema.wire_json import MalformedBodyError, Plain, check_body_size, check_length, decode_json

METADATA = b"depthrank"
A_COLUMN = "a column of numbers, text, booleans, or lists of these"
RECORD_BATCH = 3


def decode_arrow(body: bytes, limits: Limits) -> Plain:
    """The request that the stream holds. Raises MalformedBodyError, TooLargeError, RequestError (a column's type)."""
    check_body_size(len(body), limits)
    try:
        schema, batches = _read(body, limits)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        if isinstance(error, (MalformedBodyError, RequestError)) or hasattr(error, "problems"):
            raise
        raise MalformedBodyError(f"the body is no Arrow IPC stream: {str(error)[:200]}") from None
    text = (schema.metadata or {}).get(METADATA)
    if text is None:
        raise MalformedBodyError(
            "the schema's metadata has no `depthrank`: a JSON object with the fields beside the candidates"
        )
    plain = decode_json(text, limits)
    if "candidates" in plain:
        raise RequestError(
            "the request has wrong fields:",
            [FieldProblem("$.candidates", "a field", "nothing: the stream's columns are the candidates")],
        )
    plain["candidates"] = _columns(schema, batches)
    return plain


def _read(body: bytes, limits: Limits) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Every batch, checked against hostile offsets and lengths before anything is made of it."""
    _refuse_compression(body)
    with pa.ipc.open_stream(body) as reader:
        names = reader.schema.names
        if len(set(names)) != len(names):
            raise MalformedBodyError("a column name stands twice in the stream's schema")
        batches, rows = [], 0
        for batch in reader:
            rows += batch.num_rows
            check_length(rows, limits.max_candidates, "$.candidates")
            batch.validate(full=True)
            batches.append(batch)
    return reader.schema, batches


def _columns(schema: pa.Schema, batches: list[pa.RecordBatch]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    problems = []
    for i, column in enumerate(schema):
        path = f"$.candidates.{column.name}"
        try:
            found = _values(pa.chunked_array([b.column(i) for b in batches], column.type))
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            problems.append(FieldProblem(path[:120], str(error)[:80], "64-bit numbers, or text in UTF-8"))
            continue
        if found is None:
            problems.append(FieldProblem(path[:120], f"type {str(column.type)[:80]}", A_COLUMN))
        else:
            columns[column.name] = found
    if problems:
        raise RequestError("the request has wrong columns:", problems)
    return columns


def _values(column: pa.ChunkedArray) -> Any:
    """A column as an array or a list; None for a type that is no column of ours. Raises pa.ArrowInvalid."""
    kind = column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if numeric and column.null_count == 0:
        wide = column.cast(pa.int64() if pa.types.is_integer(kind) else pa.float64())
        single = wide.chunk(0) if wide.num_chunks == 1 else wide.combine_chunks()
        return np.asarray(single.to_numpy(zero_copy_only=False))
    if numeric or _is_scalar(kind):
        return column.to_pylist()
    if pa.types.is_dictionary(kind) and _is_scalar(kind.value_type):
        return [value for chunk in column.chunks for value in _looked_up(chunk)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        plain = pa.types.is_integer(inner) or pa.types.is_floating(inner) or _is_scalar(inner)
        return column.to_pylist() if plain else None
    return None


def _is_scalar(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind))


def _looked_up(chunk: pa.DictionaryArray) -> list[Any]:
    """Values by their codes; each text is one object, however often it stands in the column."""
    values = chunk.dictionary.to_pylist()
    return [None if code is None else values[code] for code in chunk.indices.to_pylist()]


def _refuse_compression(body: bytes) -> None:
    """Raises MalformedBodyError where a batch is compressed: a small body could unfold without limit.

    Walks the messages by their flatbuffers (Message.fbs: header_type 1, header 2, bodyLength 3; RecordBatch.compression
    3; DictionaryBatch.data 1), since the reader would unfold before it could be asked. Whatever does not look like that
    raises ValueError or struct.error; the reader then never sees it.
    """
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from("<i", body, at)
        at += 4
        if length == -1:  # the marker of a continuation
            (length,) = struct.unpack_from("<i", body, at)
            at += 4
        if length == 0:
            return
        if length < 0 or at + length > len(body):
            raise ValueError("a message is longer than the body")
        message = _Table.root(body[at : at + length])
        header = message.table(2)
        batch = header if message.byte(1) == RECORD_BATCH else header.table(1) if message.byte(1) == 2 else None
        if batch is not None and batch.place(3):
            raise MalformedBodyError("the Arrow stream is compressed; send it without compression")
        at += length + message.long(3)


class _Table:
    """A flatbuffer table at an offset; fields by number."""

    def __init__(self, buffer: bytes, at: int) -> None:
        if not 0 <= at <= len(buffer) - 4:
            raise ValueError("an offset leads out of its message")
        self._buffer, self._at = buffer, at
        self._vtable = at - struct.unpack_from("<i", buffer, at)[0]
        if not 0 <= self._vtable <= len(buffer) - 4:
            raise ValueError("an offset leads out of its message")
        (self._vtable_bytes,) = struct.unpack_from("<H", buffer, self._vtable)

    @classmethod
    def root(cls, buffer: bytes) -> _Table:
        return cls(buffer, struct.unpack_from("<I", buffer, 0)[0])

    def place(self, field: int) -> int:
        """Where a field stands; 0 where it is left out."""
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return 0
        (offset,) = struct.unpack_from("<H", self._buffer, self._vtable + entry)
        return self._at + int(offset) if offset else 0

    def byte(self, field: int) -> int:
        at = self.place(field)
        return int(struct.unpack_from("<B", self._buffer, at)[0]) if at else 0

    def long(self, field: int) -> int:
        """A non-negative int64."""
        at = self.place(field)
        found = int(struct.unpack_from("<q", self._buffer, at)[0]) if at else 0
        if found < 0:
            raise ValueError("a length below zero")
        return found

    def table(self, field: int) -> _Table:
        at = self.place(field)
        if not at:
            raise ValueError("a table is missing")
        return _Table(self._buffer, at + struct.unpack_from("<I", self._buffer, at)[0])

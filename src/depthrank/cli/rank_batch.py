"""Requests of a Parquet file, one a row, answered into another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from depthrank.engine import Ranker
from depthrank.errors import DataError, FieldProblem, RequestError, did_you_mean
from depthrank.schema import Answer, Limits, Request
from depthrank.schema.wire_request import read_request

COLUMNS = Request.__struct_fields__
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("value", pa.float64()),
        ("level", pa.int32()),
        ("scores", pa.string()),
    ]
)


def rank_batch(ranker: Ranker, batch: Path, out: Path, progress: bool) -> int:
    """Answer every row of ``batch``; ``out`` gets one row a returned item (scores as JSON), and appears when whole.

    Columns are the fields of a request; ``candidates`` is a list column, a struct of lists, or the text "all". Raises
    DataError for unknown or missing columns, RequestError with the row for a wrong request.
    """
    file = _open(batch)
    wall_clock = ranker.spec.dataset.main.time != "order"
    unfinished = out.with_name(f".{out.name}.unfinished")
    answered = 0
    try:
        with closing(pq.ParquetWriter(unfinished, SCHEMA, compression="zstd")) as writer:
            for row, request in _shown(_requests(file, wall_clock), file.metadata.num_rows, progress):
                writer.write_table(_as_table(row, request, ranker.rank(request)))
                answered += 1
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return answered


def _open(batch: Path) -> pq.ParquetFile:
    if not batch.is_file():
        raise DataError(f"there is no file {batch}")
    try:
        file = pq.ParquetFile(batch)
    except pa.ArrowInvalid as error:
        raise DataError(f"{batch} is not a Parquet file: {error}") from None
    problems = [
        FieldProblem(name, "no such column", "a column (one request a row)")
        for name in ("user", "candidates")
        if name not in file.schema_arrow.names
    ]
    for name in file.schema_arrow.names:
        if name not in COLUMNS:
            near = did_you_mean(name, COLUMNS)
            hint = f"did you mean {near!r}?" if near else None
            problems.append(FieldProblem(name, "an unknown column", "one of " + ", ".join(COLUMNS), hint))
    if problems:
        raise DataError(f"{batch} does not hold requests:", problems)
    return file


def _requests(file: pq.ParquetFile, wall_clock: bool) -> Iterator[tuple[int, Request]]:
    row = 0
    for records in file.iter_batches(batch_size=256):
        for plain in records.to_pylist():
            yield row, _request(plain, row, wall_clock)
            row += 1


def _request(plain: dict[str, Any], row: int, wall_clock: bool) -> Request:
    given = {name: value for name, value in plain.items() if value is not None}
    try:
        return read_request(given, Limits(), wall_clock=wall_clock)
    except RequestError as error:
        raise RequestError(f"row {row}: {error.title}", error.problems) from None


def _shown(requests: Iterator[tuple[int, Request]], total: int, progress: bool) -> Iterator[tuple[int, Request]]:
    if not progress:
        yield from requests
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(requests, description="ranking", total=total, console=Console(stderr=True))


def _as_table(row: int, request: Request, answer: Answer) -> pa.Table:
    items = answer.items
    return pa.table(
        {
            "row": [row] * len(items),
            "user": [str(request.user)] * len(items),
            "rank": list(range(1, len(items) + 1)),
            "item": [item.item for item in items],
            "value": [item.value for item in items],
            "level": [item.level for item in items],
            "scores": [msgspec.json.encode(item.scores).decode() for item in items],
        },
        schema=SCHEMA,
    )

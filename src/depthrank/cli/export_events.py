"""The event log as one Parquet file, written batch by batch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depthrank.events import EventBatch, EventLog

SCHEMA = pa.schema(
    [
        ("log_position", pa.int64()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("action", pa.string()),
        ("time_ms", pa.int64()),
        ("appended_ms", pa.int64()),
        ("event_id", pa.string()),
        ("request_id", pa.string()),
        ("position", pa.int32()),
        ("extra", pa.binary()),
    ]
)


def export_events(log: EventLog, out: Path) -> int:
    """Write all events to ``out``, which appears only when it is whole; returns how many. extra: msgpack, as logged."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    events = 0
    try:
        with closing(pq.ParquetWriter(unfinished, SCHEMA, compression="zstd")) as writer:
            for batch in log.scan():
                writer.write_table(_as_table(batch))
                events += len(batch)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return events


def _as_table(batch: EventBatch) -> pa.Table:
    columns = [getattr(batch, name) for name in SCHEMA.names]
    rows = len(batch)
    return pa.table(
        [
            pa.nulls(rows, field.type) if column is None else pa.array(column, type=field.type)
            for field, column in zip(SCHEMA, columns, strict=True)
        ],
        schema=SCHEMA,
    )

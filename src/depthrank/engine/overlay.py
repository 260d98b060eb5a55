"""A delta put into service while requests run: made ready beside them, then published by one pointer.

Ready making takes as long as it takes: rows and weights are verified, and every catalogue row that reads a changed row
is encoded anew. Publication takes the time to write those encoded rows, under the lock that a request takes to see
(generation, item snapshot): a request has both from before or both from after. What runs keeps what it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.artifact import Artifact, Delta, apply_columns, load_delta, with_delta
from depthrank.engine.compiled_levels import with_compiled_levels
from depthrank.engine.generation import Generation
from depthrank.engine.item_store import ItemStore, Pieces
from depthrank.engine.upserts import replay_upserts
from depthrank.model import ItemSide
from depthrank.tables import RowSet, served_tables

ITEM_TABLE = "item_features"
_ITEM_WEIGHTS = ("item_features.", "item_vector.", "item_mlp.", "item_bias.")
_ENCODER_WEIGHTS = ("encoder.",)


@dataclass(frozen=True)
class DeltaReport:
    """What a delta changed here: rows of tables, dense weights, catalogue rows encoded anew; seconds of both steps."""

    model: str
    sequence: int
    rows: int
    dense: int
    items: int
    prepare_s: float
    publish_s: float


@dataclass(frozen=True)
class Prepared:
    """A delta ready to be published over the generation it was made for. ``store``: a new one where every item is
    encoded anew; else ``rows`` of the present one become ``side``. ``seen``: the catalogue's generation then."""

    delta: Delta
    over: Generation
    artifact: Artifact
    store: ItemStore | None
    rows: NDArray[np.int64]
    side: ItemSide | None
    seen: int
    prepare_s: float


def prepare(generation: Generation, path: str | Path, pieces: Pieces) -> Prepared:
    """Read and verify a delta and encode what it changes, in ``pieces``; nothing that serves is touched. Raises
    ArtifactError."""
    started = time.monotonic()
    delta = load_delta(path)
    artifact = with_delta(generation.artifact, delta)
    if delta.dense:
        artifact = with_compiled_levels(artifact)
    seen = generation.items.generation
    store, side, rows = None, None, np.zeros(0, np.int64)
    with torch.inference_mode(False), torch.no_grad():
        if any(name.startswith(_ITEM_WEIGHTS) for name in delta.dense):
            store = ItemStore(artifact.model, artifact.encoder, generation.items, pieces)
        elif ITEM_TABLE in delta.rows:
            rows = _rows_that_read(generation, artifact, delta, pieces)
            side = generation.store.encode(rows, artifact.model, pieces)
    return Prepared(delta, generation, artifact, store, rows, side, seen, time.monotonic() - started)


def publish(
    prepared: Prepared, point: Callable[[Generation], object], switch: AbstractContextManager[object]
) -> DeltaReport:
    """Put a prepared delta into service: ``point`` is told the new generation, under ``switch``, which requests hold
    while they take their generation and its item snapshot.

    Upserts wait meanwhile, and are encoded by the new model where they came after the delta was prepared. What was
    upserted wins over the delta's catalogue rows. Raises ArtifactError, and changes nothing, where these do not fit.
    """
    started, generation, delta = time.monotonic(), prepared.over, prepared.delta
    model, store = prepared.artifact.model, prepared.store or generation.store
    same_encoder = not any(name.startswith(_ENCODER_WEIGHTS) for name in delta.dense)
    with generation.upserted.lock, torch.inference_mode(False), torch.no_grad():
        if delta.entities:
            apply_columns(generation.items, generation.users, delta)
            replay_upserts(generation.items, generation.log)
        late = generation.items.changed_since(prepared.seen)
        late_side = store.encode(late, model)
        new = generation.after(prepared.artifact, store, same_encoder=same_encoder)
        with switch:
            if prepared.side is not None:
                store.publish(prepared.rows, prepared.side, outdates=True)
            store.publish(late, late_side, model)
            generation.upserted.store = store
            point(new)
    items = store.size if prepared.store is not None else int(np.union1d(prepared.rows, late).size)
    return DeltaReport(
        model=prepared.artifact.served_id,
        sequence=prepared.artifact.sequence,
        rows=delta.num_rows,
        dense=len(delta.dense),
        items=items,
        prepare_s=prepared.prepare_s,
        publish_s=time.monotonic() - started,
    )


def _rows_that_read(generation: Generation, artifact: Artifact, delta: Delta, pieces: Pieces) -> NDArray[np.int64]:
    """Catalogue rows with an id whose table row the delta changes, ascending."""
    row_C, _ = delta.rows[ITEM_TABLE]
    table = served_tables(artifact.model)[ITEM_TABLE]
    changed, found = RowSet(row_C, table.source.num_rows), []
    for rows in pieces(np.arange(generation.items.size, dtype=np.int64)):
        ids_nI = torch.from_numpy(artifact.encoder.encode_items(generation.items, rows).ids)
        found.append(rows[changed.holds(table.rows_of(ids_nI)).flatten(1).any(dim=1).numpy()])
    return np.concatenate(found) if found else np.zeros(0, np.int64)

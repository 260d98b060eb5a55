"""The change from one artifact to another of the same shape, as the next delta: only what differs, byte by byte."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from depthrank.artifact.delta_apply import apply_deltas
from depthrank.artifact.delta_folder import DeltaManifest, RowChanges, write_delta
from depthrank.artifact.storage import saving_error
from depthrank.artifact.store import Artifact, load_artifact
from depthrank.catalogue import Catalogue, Column, ListColumn, TextColumn
from depthrank.errors import ArtifactError
from depthrank.tables import PackedSource, packed_parts, packed_source, served_tables, write_row_file

_SAME_FILES = ("features/", "foreign/")


@dataclass(frozen=True)
class Changes:
    """What differs: packed rows by table with their row numbers, dense tensors, catalogue columns, the policy."""

    rows: dict[str, tuple[Tensor, Tensor]]
    dense: dict[str, Tensor]
    entities: dict[str, dict[str, list[Any]]]
    policy: str

    @property
    def is_empty(self) -> bool:
        return not (any(row_C.numel() for row_C, _ in self.rows.values()) or self.dense or self.entities) and (
            self.policy == "same"
        )


def make_delta(base: str | Path, new: str | Path, out: str | Path) -> Path:
    """Write what changed from ``base``, with the deltas that are in ``out`` already, to ``new`` as the next one there.

    Raises ArtifactError where the two differ in more than values (spec, sizes, vocabularies, foreign levels, items that
    are gone), where nothing changed, and where the deltas in ``out`` are not those of ``base``.
    """
    before = apply_deltas(load_artifact(base, verify="all"), out)
    after = load_artifact(new, verify="all")
    _check_same_shape(before, after)
    changes = changes_between(before, after)
    if changes.is_empty:
        raise ArtifactError(
            f"nothing changed between {base} (with {before.sequence} deltas) and {new}: no delta to make"
        )
    try:
        return write_delta(Path(out), lambda folder: _write(folder, before, after, changes))
    except (OSError, SafetensorError) as error:
        raise saving_error(error, Path(out)) from error


def changes_between(before: Artifact, after: Artifact) -> Changes:
    """Everything that differs between two artifacts of the same shape; raises ArtifactError for items that are gone."""
    was, now = _sources(before), _sources(after)
    rows = {name: _changed_rows(was[name], source) for name, source in now.items()}
    old = before.model.state_dict()
    dense = {n: t for n, t in after.model.state_dict().items() if not _same_bytes(t, old[n])}
    entities = {}
    for entity, one, other in (("item", before.items, after.items), ("user", before.users, after.users)):
        if one is not None and other is not None and (columns := changed_columns(one, other)):
            entities[entity] = columns
    policy = "same"
    if _policy_bytes(before) != _policy_bytes(after):
        policy = "none" if after.adaptive is None else "new"
    return Changes({name: found for name, found in rows.items() if found[0].numel()}, dense, entities, policy)


def _write(folder: Path, before: Artifact, after: Artifact, changes: Changes) -> DeltaManifest:
    tables, numbers = {}, {}
    (folder / "tables").mkdir()
    for name, (row_C, packed_CB) in changes.rows.items():
        source = _sources(after)[name]
        write_row_file(folder / "tables" / f"{name}.rows", [packed_CB], source.form, source.width, row_C.shape[0])
        tables[name] = RowChanges(row_C.shape[0], source.num_rows, source.form, source.width)
        numbers[name] = row_C
    save_file(numbers, folder / "rows.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in changes.dense.items()}, folder / "dense.safetensors")
    for entity, columns in changes.entities.items():
        (folder / f"{entity}s.msgpack").write_bytes(msgspec.msgpack.encode(columns))
    if changes.policy == "new":
        (folder / "policy.json").write_bytes(_policy_bytes(after))
    return DeltaManifest(
        format=1,
        depthrank=version("depthrank"),
        base=before.manifest.checksum,
        base_model=before.manifest.model_id,
        parent=before.identity,
        sequence=before.sequence + 1,
        created_ms=time.time_ns() // 1_000_000,
        log_position=after.manifest.log_position,
        tables=tables,
        dense=sorted(changes.dense),
        entities={entity: len(columns[entity]) for entity, columns in changes.entities.items()},
        policy=changes.policy,
    )


def _check_same_shape(before: Artifact, after: Artifact) -> None:
    """A delta changes values; what changes shapes needs a whole artifact."""
    old, new = before.manifest, after.manifest
    differing = [
        name
        for name, one, other in (("the spec", old.spec, new.spec), ("the model", old.model, new.model))
        if one != other
    ]
    for name in sorted(old.files.keys() | new.files.keys()):
        if name.startswith(_SAME_FILES) and old.files.get(name) != new.files.get(name):
            differing.append(name)
    was, now = before.model.state_dict(), after.model.state_dict()
    differing += [n for n in sorted(was) if n in now and n.endswith("directory_V") and not torch.equal(was[n], now[n])]
    if (before.users is None) != (after.users is None):
        differing.append("the user catalogue")
    if differing:
        raise ArtifactError(
            f"{after.path} differs from {before.path} in more than values ({', '.join(differing[:5])}): "
            "continue training with `depthrank train --from`, or publish the new artifact as a whole"
        )


def _changed_rows(before: PackedSource, after: PackedSource) -> tuple[Tensor, Tensor]:
    """(row numbers int64 [C] ascending, their packed rows [C, B]) of the rows that are not the same bytes."""
    rows, packed, first = [], [], 0
    for old_nB, new_nB in zip(packed_parts(before), packed_parts(after), strict=True):
        differs_n = (old_nB.view(torch.uint8) != new_nB.view(torch.uint8)).any(dim=1).nonzero().squeeze(1)
        rows.append(differs_n + first)
        packed.append(new_nB[differs_n])
        first += new_nB.shape[0]
    return torch.cat(rows), torch.cat(packed)


def _sources(artifact: Artifact) -> dict[str, PackedSource]:
    return {name: packed_source(table.source) for name, table in served_tables(artifact.model).items()}


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    flat = (t.contiguous().flatten().view(torch.uint8) for t in (one, other))
    return torch.equal(*flat)


def _policy_bytes(artifact: Artifact) -> bytes:
    return b"" if artifact.adaptive is None else artifact.adaptive.to_bytes()


def changed_columns(before: Catalogue, after: Catalogue) -> dict[str, list[Any]]:
    """The rows of ``after`` that differ from ``before`` or are new, as the columns of an upsert; empty where none are.

    Raises ArtifactError where rows or columns are gone: an upsert cannot take them away.
    """
    ids = after.ids[1 : after.size]
    row_before = before.row_of(ids)
    gone = before.size - 1 - int((row_before > 0).sum())
    if gone or before.column_names != after.column_names:
        what = f"{gone} {after.entity}s" if gone else f"columns of {after.entity}s"
        raise ArtifactError(f"{what} are gone or others than before, which no delta can say: publish a whole artifact")
    changed = row_before == 0
    for name in after.column_names:
        old, new = before.column(name), after.column(name)
        if old.kind != new.kind:
            raise ArtifactError(f"column {name!r} changed from {old.kind} to {new.kind}: publish a whole artifact")
        changed |= _differs(old, new, row_before)
    rows = np.flatnonzero(changed) + 1
    if not rows.size:
        return {}
    columns = {name: values_of(after.column(name), rows) for name in after.column_names}
    return {after.entity: after.ids_of(rows), **columns}


def _differs(old: Column, new: Column, row_before: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows 1, 2, ... of ``new`` have another value than their row of ``old``."""
    rows = np.arange(1, len(row_before) + 1)
    if isinstance(old, (TextColumn, ListColumn)) or isinstance(new, (TextColumn, ListColumn)):
        was, now = values_of(old, row_before), values_of(new, rows)
        return np.fromiter((a != b for a, b in zip(was, now, strict=True)), np.bool_, len(rows))
    values = old.values[row_before] != new.values[rows]
    if values.ndim == 2:
        values = values.any(axis=1)
    differs: NDArray[np.bool_] = values | (old.missing[row_before] != new.missing[rows])
    return differs


def values_of(column: Column, rows: NDArray[np.int64]) -> list[Any]:
    """Rows of a column as an upsert takes them: plain values, None where missing."""
    if isinstance(column, TextColumn):
        return [column.dictionary[code] if code else None for code in column.codes[rows].tolist()]
    if isinstance(column, ListColumn):
        spans = zip(column.starts[rows].tolist(), column.stops[rows].tolist(), strict=True)
        return [_texts(column, start, stop) for start, stop in spans]
    values: Sequence[Any] = column.values[rows].tolist()
    missing = column.missing[rows].tolist()
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


def _texts(column: ListColumn, start: int, stop: int) -> list[str] | None:
    return [column.dictionary[code] for code in column.pool[start:stop].tolist()] or None

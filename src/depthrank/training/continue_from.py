"""Training that goes on from an artifact: its features, sizes, tables and weights, so that the result differs in values
alone and a delta can carry it.

Rows that no example touched keep their very bytes: the optimizer leaves them alone, and packing them again could round
otherwise, so they are taken over as they were stored.
"""

from __future__ import annotations

import torch

from depthrank.artifact import Artifact
from depthrank.errors import ArtifactError
from depthrank.model import ElasticRanker
from depthrank.schema import Spec
from depthrank.tables import (
    FusedTable,
    PackedRows,
    PackedSource,
    ServedTable,
    packed_parts,
    packed_source,
    served_tables,
)

PART_ROWS = 1 << 16
FREE_SECTIONS = ("training", "dataset", "split", "folder")
"""What the spec may say otherwise than the artifact's: which data, and how to train on it."""


def check_continues(spec: Spec, base: Artifact) -> None:
    """Raise ArtifactError where the spec describes another model than the artifact holds."""
    given, held = spec.to_plain(), base.spec.to_plain()
    differing = [
        n for n in sorted(given.keys() | held.keys()) if n not in FREE_SECTIONS and given.get(n) != held.get(n)
    ]
    if differing:
        raise ArtifactError(
            f"training cannot go on from {base.path}: the spec has other {', '.join(differing)}; "
            "train anew without --from"
        )
    if base.model.foreign_levels():
        raise ArtifactError(f"training cannot go on from {base.path}: its foreign levels are graphs; train anew")


def continued_model(base: Artifact) -> ElasticRanker:
    """The artifact's model as one that trains."""
    model = ElasticRanker(base.model.config)
    state = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    for name, source in _sources(base).items():
        state[f"{name}.table.weight"] = torch.cat([source.rows(part) for part in _numbers(source)])
    model.load_state_dict(state, strict=True)
    return model


def keep_packed_rows_(model: ElasticRanker, base: Artifact) -> dict[str, int]:
    """Put packed tables into the model, rows that are as they were with the bytes they had; returns changed rows."""
    changed = {}
    for name, source in _sources(base).items():
        features = model.get_submodule(name)
        table = features.table
        assert isinstance(table, FusedTable)
        packed = table.packed(source.form)
        same = torch.cat([(table.weight[part] == source.rows(part)).all(dim=1) for part in _numbers(source)])
        packed[same] = torch.cat(list(packed_parts(source)))[same]
        features.table = ServedTable(table.slots, table.width, PackedRows(packed, source.form, source.width))
        changed[name] = int((~same).sum())
    return changed


def _sources(base: Artifact) -> dict[str, PackedSource]:
    return {name: packed_source(table.source) for name, table in served_tables(base.model).items()}


def _numbers(source: PackedSource) -> list[torch.Tensor]:
    """Row numbers in parts."""
    last = source.num_rows
    return [torch.arange(first, min(first + PART_ROWS, last)) for first in range(0, last, PART_ROWS)]

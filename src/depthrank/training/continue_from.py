"""Training that goes on from an artifact: its features, sizes, tables and weights, so that the result differs in values
alone and a delta can carry it.

Rows that no example touched keep their very bytes: the optimizer leaves them alone, and packing them again could round
otherwise, so they are taken over as they were stored.
"""

from __future__ import annotations

import torch

from depthrank.artifact import Artifact
from depthrank.errors import ArtifactError, SpecError
from depthrank.model import ElasticRanker, ModelConfig
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
from depthrank.training.processes import ALONE, Processes

PART_ROWS = 1 << 16
FREE_SECTIONS = ("training", "dataset", "split", "folder")
"""What the spec may say otherwise than the artifact's: which data, and how to train on it."""


def check_continues(spec: Spec, base: Artifact | None) -> None:
    """Raise ArtifactError where the spec describes another model than the artifact holds, SpecError where it needs
    an artifact and there is none."""
    if base is None:
        if spec.training.router == "keep":
            raise SpecError("training.router: keep needs the artifact whose router that is: name it with --from")
        return
    given, held = spec.to_plain(), base.spec.to_plain()
    free = (*FREE_SECTIONS, "model") if spec.training.router == "keep" else FREE_SECTIONS
    differing = [n for n in sorted(given.keys() | held.keys()) if n not in free and given.get(n) != held.get(n)]
    if differing:
        raise ArtifactError(
            f"training cannot go on from {base.path}: the spec has other {', '.join(differing)}; "
            "train anew without --from"
        )
    if base.model.foreign_levels():
        raise ArtifactError(f"training cannot go on from {base.path}: its foreign levels are graphs; train anew")


def continued_model(base: Artifact, processes: Processes = ALONE) -> ElasticRanker:
    """The artifact's model as one that trains, with the rows that lie in this process."""
    model = ElasticRanker(base.model.config)
    model.load_state_dict(_state_of(base, processes), strict=True)
    return model


def deepened_model(base: Artifact, config: ModelConfig, processes: Processes = ALONE) -> ElasticRanker:
    """A model whose level 0, and all that it is made of, are the artifact's and do not learn; the rest is new.

    Raises ArtifactError where ``config`` has another router.
    """
    model = ElasticRanker(config)
    new = ("experts.", "transitions.", "candidate_start.", "calibration_")
    deeper = tuple(f"encoder.layers.{layer}." for layer in range(config.router_layers, config.encoder_layers))
    own, held = model.state_dict(), _state_of(base, processes)
    kept = {name: tensor for name, tensor in own.items() if not name.startswith((*new, *deeper))}
    other = sorted(name for name, tensor in kept.items() if name not in held or held[name].shape != tensor.shape)
    if other:
        raise ArtifactError(
            f"training cannot keep the router of {base.path}: {', '.join(other[:5])} has another size there; give "
            "the model section the same preset, width, heads and encoder_layers, or train anew without --from"
        )
    model.load_state_dict({**own, **{name: held[name] for name in kept}})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in kept)
    return model


def _state_of(base: Artifact, processes: Processes) -> dict[str, torch.Tensor]:
    """Every weight of an artifact's model, its tables' rows unpacked: those that lie in this process."""
    state = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    for name, source in _sources(base).items():
        state[f"{name}.table.weight"] = torch.cat(
            [source.rows(part) for part in _numbers(processes.rows(source.num_rows))]
        )
    return state


def keep_packed_rows_(model: ElasticRanker, base: Artifact) -> dict[str, int]:
    """Put packed tables into the model, rows that are as they were with the bytes they had; returns changed rows."""
    changed = {}
    for name, source in _sources(base).items():
        features = model.get_submodule(name)
        table = features.table
        assert isinstance(table, FusedTable)
        packed = table.packed(source.form)
        same = torch.cat(
            [(table.weight[part] == source.rows(part)).all(dim=1) for part in _numbers(range(source.num_rows))]
        )
        packed[same] = torch.cat(list(packed_parts(source)))[same]
        features.table = ServedTable(table.slots, table.width, PackedRows(packed, source.form, source.width))
        changed[name] = int((~same).sum())
    return changed


def _sources(base: Artifact) -> dict[str, PackedSource]:
    return {name: packed_source(table.source) for name, table in served_tables(base.model).items()}


def _numbers(rows: range) -> list[torch.Tensor]:
    """Row numbers in parts."""
    starts = range(rows.start, rows.stop, PART_ROWS)
    return [torch.arange(first, min(first + PART_ROWS, rows.stop)) for first in starts] or [torch.arange(0)]

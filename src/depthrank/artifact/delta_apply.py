"""An artifact with a delta: a new one that shares every tensor, mapping and object that the delta does not change.

Nothing of the old artifact is written to, so both can serve side by side until the last request of the old one is done.
Rows of a delta are read into memory and verified there: what happens to its files later touches nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from depthrank.artifact.adaptive import model_identity
from depthrank.artifact.delta_folder import DeltaManifest, delta_folders, read_delta
from depthrank.artifact.fit import HOSTILE
from depthrank.artifact.store import Artifact
from depthrank.catalogue import Catalogue
from depthrank.errors import ArtifactError, RequestError
from depthrank.model import ElasticRanker
from depthrank.precision import in_formats
from depthrank.routing import AdaptivePolicy
from depthrank.tables import PackedRows, RowFile, RowSource, ServedTable, overlaid, packed_source, served_tables


@dataclass(frozen=True)
class Delta:
    """A delta in memory, verified. ``rows``: by table, the row numbers int64 [C] and their packed rows."""

    folder: Path
    manifest: DeltaManifest
    rows: dict[str, tuple[Tensor, PackedRows]]
    dense: dict[str, Tensor]
    entities: dict[str, dict[str, list[Any]]]
    policy: bytes | None

    @property
    def num_rows(self) -> int:
        """Changed rows of all tables."""
        return sum(row_C.shape[0] for row_C, _ in self.rows.values())


def load_delta(folder: str | Path) -> Delta:
    """Read and verify a delta; raises ArtifactError that says what is wrong with it."""
    folder = Path(folder)
    manifest = read_delta(folder)
    try:
        numbers, dense = load_file(folder / "rows.safetensors"), load_file(folder / "dense.safetensors")
        rows = {}
        for name, said in manifest.tables.items():
            packed = RowFile.open(folder / "tables" / f"{name}.rows").resident()
            rows[name] = _checked_rows(numbers[name].clone(), said.of), packed
        entities = {
            entity: msgspec.msgpack.decode((folder / f"{entity}s.msgpack").read_bytes(), type=dict[str, list[Any]])
            for entity in manifest.entities
        }
        policy = (folder / "policy.json").read_bytes() if manifest.policy == "new" else None
    except ArtifactError:
        raise
    except (SafetensorError, msgspec.DecodeError, *HOSTILE) as error:
        raise ArtifactError(f"{folder} cannot be read: {type(error).__name__}: {error}") from None
    own = {name: tensor.clone() for name, tensor in dense.items()}
    return Delta(folder, manifest, rows, own, entities, policy)


def check_follows(artifact: Artifact, delta: Delta) -> None:
    """Raise ArtifactError, with what to do, unless the delta is the next one of this artifact."""
    manifest, applied = delta.manifest, artifact.sequence
    if manifest.base != artifact.manifest.checksum:
        raise ArtifactError(
            f"{delta.folder} is a delta of {manifest.base_model}, this is {artifact.manifest.model_id}: "
            f"make it anew with `depthrank delta make`"
        )
    if manifest.sequence <= applied:
        raise ArtifactError(f"{delta.folder} is number {manifest.sequence}, and {applied} are applied already")
    if manifest.sequence > applied + 1:
        raise ArtifactError(
            f"{delta.folder} is number {manifest.sequence}, and {applied} are applied: apply number {applied + 1} first"
        )
    if manifest.parent != artifact.identity:
        raise ArtifactError(
            f"{delta.folder} follows another number {applied} than the one that is applied: two runs made deltas of "
            "one artifact; keep those of one of them"
        )


def with_delta(artifact: Artifact, delta: Delta) -> Artifact:
    """The artifact after the delta, catalogues excepted (``apply_columns``); the given one stays as it is.

    Raises ArtifactError where the delta is not the next one, or does not fit the model.
    """
    check_follows(artifact, delta)
    trained = artifact.trained or artifact.model
    sources = _sources(trained, delta)
    if not delta.dense:
        model = with_tables(artifact.model, sources)
        kept = None if artifact.trained is None else with_tables(trained, sources)
    else:
        _check_dense(trained, delta)
        kept = model = with_parts(with_tables(trained, sources), {}, delta.dense)
        if artifact.precision is not None and artifact.precision.policy is not None:
            model = in_formats(kept, artifact.precision.policy.choices)
        kept = None if artifact.trained is None else kept
    policy = _policy(artifact, delta, kept or model)
    return replace(artifact, model=model, trained=kept, adaptive=policy, delta=delta.manifest)


def apply_columns(items: Catalogue, users: Catalogue | None, delta: Delta) -> None:
    """Change the catalogues as the delta says; raises ArtifactError where its columns do not fit them."""
    for entity, columns in delta.entities.items():
        catalogue = items if entity == "item" else users
        if entity not in ("item", "user") or catalogue is None:
            raise ArtifactError(f"{delta.folder} changes {entity}s, which the artifact does not have")
        try:
            catalogue.upsert(columns)
        except RequestError as error:
            raise ArtifactError(f"{delta.folder}: {error}") from None


def apply_deltas(artifact: Artifact, folder: str | Path) -> Artifact:
    """The artifact with all deltas of a folder, catalogues included; raises ArtifactError. For one that serves nobody
    yet: its catalogues are changed."""
    for path in delta_folders(Path(folder)):
        delta = load_delta(path)
        artifact = with_delta(artifact, delta)
        apply_columns(artifact.items, artifact.users, delta)
    return artifact


def with_parts(model: ElasticRanker, tables: Mapping[str, ServedTable], dense: Mapping[str, Tensor]) -> ElasticRanker:
    """The model with other tables and weights: modules on the way to them are new, all others are the same objects."""
    copied: dict[str, nn.Module] = {"": _shallow(model)}

    def owner_of(name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        if path not in copied:
            parent, own = owner_of(path)
            copied[path] = _shallow(model.get_submodule(path))
            parent._modules[own] = copied[path]
        return copied[path], leaf

    for name, table in tables.items():
        parent, leaf = owner_of(f"{name}.table")
        parent._modules[leaf] = table
    for name, tensor in dense.items():
        parent, leaf = owner_of(name)
        if leaf in parent._parameters:
            parent._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            parent._buffers[leaf] = tensor
    return copied[""]  # type: ignore[return-value]


def with_tables(model: ElasticRanker, sources: Mapping[str, RowSource]) -> ElasticRanker:
    """The model with other sources behind some of its tables."""
    tables, changed = served_tables(model), {}
    for name, source in sources.items():
        table = _shallow(tables[name])
        assert isinstance(table, ServedTable)
        table.source = source
        changed[name] = table
    return with_parts(model, changed, {})


def _shallow(module: nn.Module) -> nn.Module:
    """Another module with the same parts."""
    made = module.__new__(type(module))
    made.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        made.__dict__[name] = dict(module.__dict__[name])
    return made


def _sources(model: ElasticRanker, delta: Delta) -> dict[str, RowSource]:
    """The tables that change, over the same base; raises ArtifactError where rows do not fit."""
    tables = served_tables(model)
    changed: dict[str, RowSource] = {}
    for name, (row_C, packed) in delta.rows.items():
        if name not in tables:
            raise ArtifactError(f"{delta.folder}: there is no table {name}; there are {', '.join(tables)}")
        source = packed_source(tables[name].source)
        expected = source.num_rows, source.width, source.form, row_C.shape[0]
        found = delta.manifest.tables[name].of, packed.width, packed.form, packed.num_rows
        if found != expected:
            raise ArtifactError(f"{delta.folder}: rows of {name} are {found}, the table has {expected}")
        if bool(torch.isin(tables[name].row_map.padding_rows(), row_C).any()):
            raise ArtifactError(f"{delta.folder} changes padding rows of {name}, which are zeros by definition")
        changed[name] = overlaid(source, row_C, packed)
    return changed


def _check_dense(model: ElasticRanker, delta: Delta) -> None:
    state = model.state_dict()
    for name, tensor in delta.dense.items():
        if name not in state or name.endswith("directory_V"):
            raise ArtifactError(f"{delta.folder}: weight {name} is not one that a delta can change")
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype:
            raise ArtifactError(
                f"{delta.folder}: weight {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"the model has {state[name].dtype} {list(state[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{delta.folder}: weight {name} holds numbers that are not finite: training diverged")


def _policy(artifact: Artifact, delta: Delta, trained: ElasticRanker) -> AdaptivePolicy | None:
    """The policy after the delta, bound to the weights after it."""
    if delta.manifest.policy == "none":
        return None
    policy = artifact.adaptive if delta.policy is None else AdaptivePolicy.from_bytes(delta.policy)
    if policy is not None:
        policy.check_made_for(model_identity(trained), trained.config.num_levels)
    return policy


def _checked_rows(row_C: Tensor, num_rows: int) -> Tensor:
    if row_C.dtype != torch.int64 or row_C.dim() != 1:
        raise ArtifactError(f"row numbers of a delta are {row_C.dtype} {list(row_C.shape)}, expected int64 [C]")
    ascending = bool((row_C.diff() > 0).all())
    if row_C.numel() and (not ascending or int(row_C[0]) < 0 or int(row_C[-1]) >= num_rows):
        raise ArtifactError(f"row numbers of a delta do not ascend within 0 to {num_rows - 1}")
    return row_C

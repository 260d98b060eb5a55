"""Weights on disk: dense ones in one safetensors file, embedding tables as row files that are mapped where they lie.

No pickle anywhere. Tables are mapped copy-on-write: loading costs no copy, nothing can write back, and a table may be
larger than memory. A server maps files of the local cache (fetch.py), which nobody truncates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from depthrank.artifact.fit import HOSTILE
from depthrank.artifact.uninitialised import Uninitialised
from depthrank.errors import ArtifactError
from depthrank.model import ElasticRanker, ForeignLevel, ModelConfig
from depthrank.model.config import SideConfig
from depthrank.model.cross import CrossNetwork
from depthrank.model.feature_tokens import FeatureTokens
from depthrank.tables import (
    FusedTable,
    PackedRows,
    RowFile,
    RowMap,
    ServedTable,
    packed_parts,
    packed_source,
    rows_left_out,
    write_row_file,
)

DENSE_NAME = "dense.safetensors"
TABLE_SUFFIX = ".table.weight"
VERIFIED_BYTES = 64 << 20  # tables up to this size are read and verified when they are loaded, larger ones on demand

_SIDES = ("request", "item", "candidate")


def save_weights(model: ElasticRanker, folder: Path) -> None:
    """Write the model's weights below ``folder``."""
    dense: dict[str, Tensor] = {}
    foreign = {f"{name}." for name, level in model.named_modules() if isinstance(level, ForeignLevel)}
    for name, tensor in model.state_dict().items():
        if name.startswith(tuple(foreign)) or name.endswith(TABLE_SUFFIX):
            continue  # a graph of its own holds the former, row files the latter
        dense[name] = tensor.detach().cpu().contiguous()
    save_file(dense, folder / DENSE_NAME)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for side in _SIDES:
        table, config = _features(model, side).table, getattr(model.config, side)
        if table is not None:
            width, num_rows = model.config.table_width, max(table.row_map.num_rows, 1)
            write_row_file(table_path(folder, side), _packed(table, config), config.row_format, width, num_rows)


def load_weights(config: ModelConfig, folder: Path) -> ElasticRanker:
    """A ranker in eval mode with the weights below ``folder``; raises ArtifactError where they do not fit.

    Names, shapes and types are compared before memory of the config's size is touched.
    """
    try:
        with rows_left_out(), Uninitialised():
            model = ElasticRanker(config)  # holds the buffers that are derived, not stored
    except (RuntimeError, MemoryError) as error:
        raise ArtifactError(f"{folder}: a model of the manifest's sizes cannot be made: {error}") from None
    wanted = {name: t for name, t in model.state_dict().items() if not name.endswith(TABLE_SUFFIX)}
    try:
        state = load_file(folder / DENSE_NAME)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / DENSE_NAME} cannot be read: {error}") from None
    _check_fit(folder, wanted, state)
    sources = {side: _open_table(config, folder, side) for side in _SIDES if getattr(config, side).slots}
    for side, source in sources.items():
        slots = getattr(config, side).slots
        _features(model, side).table = ServedTable(slots, config.table_width, source)
    model.load_state_dict(state, strict=True, assign=True)
    _check_directories(folder, model)
    model.requires_grad_(False).eval()
    for module in model.modules():
        if isinstance(module, CrossNetwork):
            module.prepare_to_serve()
    return model


def table_path(folder: Path, side: str) -> Path:
    """The row file of a side."""
    return folder / "tables" / f"{side}_features.rows"


def _features(model: ElasticRanker, side: str) -> FeatureTokens:
    features = getattr(model, f"{side}_features")
    assert isinstance(features, FeatureTokens)
    return features


def _packed(table: FusedTable | ServedTable, config: SideConfig) -> Iterator[Tensor]:
    """The rows as they are stored, in parts."""
    if isinstance(table, FusedTable):
        return iter([table.packed(config.row_format)])
    return packed_parts(packed_source(table.source))


def _open_table(config: ModelConfig, folder: Path, side: str) -> PackedRows:
    """The mapped rows of a side, which must be of the config's format and sizes."""
    of_side: SideConfig = getattr(config, side)
    path = table_path(folder, side)
    row_map = RowMap(of_side.slots)
    shape = (max(row_map.num_rows, 1), config.table_width)
    old = path.with_suffix(".npy")
    if old.exists() and not path.exists():
        return _first_form(old, row_map, shape)
    file = RowFile.open(path)
    found = (file.header.form, file.header.num_rows, file.header.width)
    expected = (of_side.row_format, *shape)
    if found != expected:
        raise ArtifactError(
            f"{path} holds {found[0]} rows {list(found[1:])}, the model of the manifest has {expected[0]} rows "
            f"{list(expected[1:])}"
        )
    if file.header.file_bytes <= VERIFIED_BYTES:
        file.verify()
    return file.source()


def _first_form(path: Path, row_map: RowMap, shape: tuple[int, int]) -> PackedRows:
    """Tables as the first releases wrote them: float32 in a ``.npy`` file, padding rows with anything in them."""
    try:
        rows = np.lib.format.open_memmap(path, mode="c")  # no object arrays, no archives, unlike numpy.load
    except (*HOSTILE, MemoryError) as error:
        raise ArtifactError(f"{path} cannot be mapped: {error}") from None
    if rows.dtype != np.float32 or not rows.flags.c_contiguous or rows.shape != shape:
        given, asked = f"{rows.dtype} {list(rows.shape)}", f"float32 {list(shape)}"
        raise ArtifactError(f"{path} holds {given}, the model of the manifest has {asked} in C order")
    table = torch.from_numpy(rows)
    table[row_map.padding_rows()] = 0.0  # in this process's copy of their pages
    return PackedRows(table, "fp32", table.shape[1])


def _check_fit(folder: Path, wanted: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state or name not in wanted:
            problem = "is missing" if name not in state else "is not part of the model"
            raise ArtifactError(f"{folder}: weight {name} {problem}")
        found, expected = state[name], wanted[name]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            given, asked = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (found, expected))
            raise ArtifactError(f"{folder}: weight {name} is {given}, the model of the manifest has {asked}")


def _check_directories(folder: Path, model: ElasticRanker) -> None:
    """No entry of a directory may point outside the rows of its feature."""
    for side in _SIDES:
        table = _features(model, side).table
        if table is not None and (problem := table.row_map.directory_problem()):
            raise ArtifactError(f"{folder}: the table of the {side} side: {problem}")

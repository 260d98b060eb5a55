"""Weights on disk: dense ones in one safetensors file, embedding tables as mapped row files (``.npy``, C order).

No pickle anywhere. Tables are mapped copy-on-write, so that loading costs no copy and nothing can write back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from depthrank.artifact.fit import HOSTILE
from depthrank.artifact.storage import write_array
from depthrank.errors import ArtifactError
from depthrank.model import ElasticRanker, ForeignLevel, ModelConfig

DENSE_NAME = "dense.safetensors"
TABLE_SUFFIX = ".table.weight"


def save_weights(model: ElasticRanker, folder: Path) -> None:
    """Write the model's weights below ``folder``."""
    dense: dict[str, Tensor] = {}
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    foreign = {f"{name}." for name, level in model.named_modules() if isinstance(level, ForeignLevel)}
    for name, tensor in model.state_dict().items():
        if name.startswith(tuple(foreign)):
            continue  # a graph of its own holds these
        value = tensor.detach().cpu().contiguous()
        if name.endswith(TABLE_SUFFIX):
            write_array(_table_path(folder, name), value.numpy())
        else:
            dense[name] = value
    save_file(dense, folder / DENSE_NAME)


def load_weights(config: ModelConfig, folder: Path) -> ElasticRanker:
    """A ranker in eval mode with the weights below ``folder``; raises ArtifactError where they do not fit.

    Names, shapes and types are compared before anything of the config's size is allocated.
    """
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in ElasticRanker(config).state_dict().items()}
    try:
        state = load_file(folder / DENSE_NAME)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / DENSE_NAME} cannot be read: {error}") from None
    for name in wanted:
        if name.endswith(TABLE_SUFFIX):
            state[name] = _map_table(_table_path(folder, name))
    _check_fit(folder, wanted, state)
    model = ElasticRanker(config)  # holds the buffers that are derived, not stored
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _check_fit(folder: Path, wanted: dict[str, tuple[int, ...]], state: dict[str, Tensor]) -> None:
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state or name not in wanted:
            problem = "is missing" if name not in state else "is not part of the model"
            raise ArtifactError(f"{folder}: weight {name} {problem}")
        found, shape = state[name], wanted[name]
        if tuple(found.shape) != shape or found.dtype != torch.float32:
            given = f"{found.dtype} {list(found.shape)}"
            raise ArtifactError(
                f"{folder}: weight {name} is {given}, the model of the manifest has float32 {list(shape)}"
            )


def _table_path(folder: Path, name: str) -> Path:
    return folder / "tables" / f"{name.removesuffix(TABLE_SUFFIX)}.npy"


def _map_table(path: Path) -> Tensor:
    try:
        rows = np.lib.format.open_memmap(path, mode="c")  # no object arrays, no archives, unlike numpy.load
    except (*HOSTILE, MemoryError) as error:
        raise ArtifactError(f"{path} cannot be mapped: {error}") from None
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise ArtifactError(f"{path} holds {rows.dtype} rows, expected float32 in C order")
    return torch.from_numpy(rows)

"""Weights on disk: dense ones in one safetensors file, embedding tables as mapped row files (``.npy``, C order).

No pickle anywhere: ``numpy.load`` runs with ``allow_pickle=False``. Tables are mapped copy-on-write, so that loading
costs no copy and nothing can write back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from depthrank.errors import ArtifactError
from depthrank.model import ElasticRanker, ModelConfig

DENSE_NAME = "dense.safetensors"
TABLE_SUFFIX = ".table.weight"


def save_weights(model: ElasticRanker, folder: Path) -> None:
    """Write the model's weights below ``folder``."""
    dense: dict[str, Tensor] = {}
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        if name.endswith(TABLE_SUFFIX):
            np.save(_table_path(folder, name), value.numpy(), allow_pickle=False)
        else:
            dense[name] = value
    save_file(dense, folder / DENSE_NAME)


def load_weights(config: ModelConfig, folder: Path) -> ElasticRanker:
    """A ranker in eval mode with the weights below ``folder``; raises ArtifactError where they do not fit."""
    with torch.device("meta"):
        skeleton = ElasticRanker(config)
    wanted = {name: tuple(t.shape) for name, t in skeleton.state_dict().items()}
    model = ElasticRanker(config)  # holds the buffers that are derived, not stored
    try:
        state = load_file(folder / DENSE_NAME)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / DENSE_NAME} cannot be read: {error}") from None
    for name in wanted:
        if name.endswith(TABLE_SUFFIX):
            state[name] = _map_table(_table_path(folder, name))
    _check_fit(folder, wanted, state)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _check_fit(folder: Path, wanted: dict[str, tuple[int, ...]], state: dict[str, Tensor]) -> None:
    found = {name: tuple(t.shape) for name, t in state.items()}
    if found != wanted:
        wrong = _first(sorted(set(wanted.items()) ^ set(found.items())))
        raise ArtifactError(f"{folder}: weights do not fit the model of the manifest, first at {wrong}")


def _first(items: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    name, shape = next(iter(items))
    return f"{name} {list(shape)}"


def _table_path(folder: Path, name: str) -> Path:
    return folder / "tables" / f"{name.removesuffix(TABLE_SUFFIX)}.npy"


def _map_table(path: Path) -> Tensor:
    try:
        rows = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be mapped: {error}") from None
    if rows.dtype != np.float32:
        raise ArtifactError(f"{path} holds {rows.dtype} rows, expected float32")
    return torch.from_numpy(rows)

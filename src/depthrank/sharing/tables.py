"""The tables of a bound catalogue as files: one an item-only value, raw little-endian rows, mapped by who reads them.

``table-K.bin`` is V rows of one value in C order and nothing else; ``graph.json`` has its sizes, dtype and SHA-256.
A mapping is private and its file read-only, so processes share the pages and none can change them for another.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthrank.errors import ArtifactError, SharingError
from depthrank.sharing.ir import product

CHUNK_BYTES = 1 << 22


def table_path(folder: Path, number: int) -> Path:
    return folder / f"table-{number}.bin"


def write_tables(folder: Path, chunks: Iterable[Sequence[Tensor]], num: int) -> list[str]:
    """Write tables piece by piece, so that no more than a piece is in memory; returns their SHA-256."""
    _little_endian()
    folder.mkdir(parents=True, exist_ok=True)
    parts = [table_path(folder, k).with_suffix(f".{os.getpid()}.tmp") for k in range(num)]
    digests = [hashlib.sha256() for _ in range(num)]
    files = [path.open("wb") for path in parts]
    try:
        for pieces in chunks:
            for file, digest, piece in zip(files, digests, pieces, strict=True):
                raw = piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
                file.write(raw)
                digest.update(raw)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files:
            file.close()
    for number, path in enumerate(parts):
        path.chmod(0o444)
        path.replace(table_path(folder, number))
    return [d.hexdigest() for d in digests]


def map_table(path: Path, dims: Sequence[int], dtype: torch.dtype, sha256: Any, check: bool) -> Tensor:
    """The rows of a table, mapped; raises ``ArtifactError`` for a file that is missing, cut, padded or altered.

    ``check`` reads the file once to compare its SHA-256.
    """
    _little_endian()
    size = product(dims) * dtype.itemsize
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(f"{path} is missing; expected the folder that save() or bind() wrote")
    if path.stat().st_size != size:
        raise ArtifactError(f"{path} has {path.stat().st_size} bytes; expected {size} for {list(dims)} of {dtype}")
    if check and _sha256(path) != sha256:
        raise ArtifactError(f"{path} was altered: its SHA-256 is not the one in graph.json")
    if size == 0:
        return torch.empty(tuple(dims), dtype=dtype)
    return torch.from_file(str(path), shared=False, size=product(dims), dtype=dtype).reshape(tuple(dims))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _little_endian() -> None:
    if sys.byteorder != "little":
        raise SharingError("tables are little-endian files; this machine is not")

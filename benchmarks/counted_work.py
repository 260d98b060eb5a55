"""What a piece of torch code must do, counted while it runs: operations of its products, and bytes.

Two counts of bytes. ``moved`` sums what every kernel reads and writes, as the code is written now. ``needed`` is what
no code could avoid: each tensor that comes from outside (weights, inputs) is read once, of a lookup only the rows that
it fetches, and what is left standing at the end is written once; everything in between is free.

Products are counted, elementwise operations are not, so a floor made from these is a little low.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

LOOKUPS = ("embedding", "index_select", "index", "gather", "embedding_bag")


@dataclass
class Work:
    """flops; bytes needed at least; bytes that the kernels move."""

    flops: int = 0
    needed_bytes: int = 0
    moved_bytes: int = 0

    def add_(self, other: Work) -> None:
        self.flops += other.flops
        self.needed_bytes += other.needed_bytes
        self.moved_bytes += other.moved_bytes


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products per query and key of every head: scores, and the weighted sum."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))


MORE_FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


class CountedBytes(TorchDispatchMode):
    """Sums ``moved`` and ``needed``; a view costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0
        self._read = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._seen: set[int] = set()

    @property
    def needed(self) -> int:
        """Read from outside so far, and written to what still stands."""
        standing = (size for storage, size in self._made.values() if not bool(storage.expired()))
        return self._read + sum(standing)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        sources = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        owned = {_storage(s) for s in sources}
        if results and all(_storage(r) in owned for r in results) and not _in_place(func):
            return result
        written = sum(map(_bytes, results))
        lookup = _name(func) in LOOKUPS
        self.moved += written + (written if lookup else 0) + sum(map(_stored_bytes, sources[lookup:]))
        for source in sources:
            self._read_once(source, written if lookup and source is sources[0] else None)
        for made in results:
            storage = _storage(made)
            if storage not in owned and storage not in self._made:
                self._made[storage] = (StorageWeakRef(made.untyped_storage()), _bytes(made))
        return result

    def _read_once(self, source: Tensor, fetched: int | None) -> None:
        """``fetched``: the bytes that a lookup takes from its table; every lookup counts, a whole read once."""
        storage = _storage(source)
        if storage in self._made or storage in self._seen:
            return
        if fetched is None:
            self._seen.add(storage)
        self._read += _stored_bytes(source) if fetched is None else fetched


@contextmanager
def counted(into: Work) -> Iterator[None]:
    """Add the work of everything inside to ``into``."""
    sizes = CountedBytes()
    products = FlopCounterMode(display=False, custom_mapping=MORE_FORMULAS)
    with sizes, products:
        yield
        into.add_(Work(products.get_total_flops(), sizes.needed, sizes.moved))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _stored_bytes(tensor: Tensor) -> int:
    """Of an expanded tensor only what it stores."""
    return min(_bytes(tensor), tensor.untyped_storage().nbytes())


def _name(func: Any) -> str:
    return str(func._schema.name).split("::")[-1].strip("_")


def _in_place(func: Any) -> bool:
    return bool(func._schema.is_mutable)

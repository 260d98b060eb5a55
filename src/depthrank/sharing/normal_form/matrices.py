"""Linear algebra over the last two dimensions: inverses, decompositions, exponentials of each row's own matrix.

A row's matrix is its own as long as the batch is neither of the two dimensions; matrices of the model are constants.
"""

from __future__ import annotations

from typing import Any

from depthrank.sharing.layout import Group, Layout, canonical
from depthrank.sharing.normal_form.reader import Reader, rule


@rule("aten.linalg_matrix_exp.default")
def of_matrix(reader: Reader, x: Layout, *args: Any) -> Layout:
    flat = _matrices(reader, x)
    return Layout(reader.node(reader.name, [flat.node, *args]), flat.groups)


@rule(
    "aten.linalg_inv_ex.default",
    "aten.linalg_cholesky_ex.default",
    "aten.linalg_qr.default",
    "aten._linalg_det.default",
    "aten._linalg_slogdet.default",
    "aten._linalg_eigh.default",
    "aten._linalg_svd.default",
)
def parts_of_matrix(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> list[Layout]:
    """Operators with several results: numbers, vectors or matrices for each matrix."""
    flat = _matrices(reader, x)
    own = {k: v for k, v in kwargs.items() if v is not None}
    return [_behind(flat, node) for node in reader.nodes(reader.name, [flat.node, *args], own)]


@rule("aten._linalg_solve_ex.default")
def solved(reader: Reader, a: Layout, b: Layout, *args: Any, **kwargs: Any) -> list[Layout]:
    """x with a x = b, for a matrix or a vector b of the same rows."""
    left = _matrices(reader, a)
    right = canonical(reader.graph, b)
    if left.groups[:-2] != right.groups[: left.rank - 2] or left.node.batched != right.node.batched:
        reader.refuse("a linear system whose sides lie differently over the batch has no rule for sharing")
    nodes = reader.nodes(reader.name, [left.node, right.node, *args], kwargs)
    return [Layout(nodes[0], right.groups), *(_behind(left, n) for n in nodes[1:])]


def _matrices(reader: Reader, x: Layout) -> Layout:
    """[..., n, m] with the batch among the leading dimensions, if anywhere."""
    for d in (x.rank - 2, x.rank - 1):
        reader.forbid_batch(x, d, f"{reader.name} over")
    return canonical(reader.graph, x)


def _behind(flat: Layout, node: Any) -> Layout:
    """A result with the leading dimensions of the matrices, and its own behind them."""
    lead = len(flat.node.dims) - 2
    own: tuple[Group, ...] = tuple((k,) for k in range(lead, len(node.dims)))
    return Layout(node, (*flat.groups[:-2], *own))

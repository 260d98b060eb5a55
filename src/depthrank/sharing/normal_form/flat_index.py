"""Row numbers, and x.view(B * K, D)[own + arange(B) * K]: each row's own pick, written as one flat index.

Interests of MIND and ComiRec are read so: the best of a row's K, by argmax, with the row's own offset added.
"""

from __future__ import annotations

from depthrank.sharing.ir import Node
from depthrank.sharing.layout import BATCH, Layout
from depthrank.sharing.normal_form.reader import Reader
from depthrank.sharing.normal_form.rows_one_by_one import is_row_numbers

_PLACES = ("aten.argmax.default", "aten.argmin.default")
_WITH_PLACES = {
    "aten.topk.default": 2,
    "aten.max.dim": 1,
    "aten.min.dim": 1,
    "aten.sort.default": 1,
}  # where the axis is


def own_part_of_flat_index(reader: Reader, x: Layout, index: Layout) -> Layout | None:
    """The index within each row's K entries; None unless it is an argmax or topk over K plus the row number times K."""
    if x.groups[0][:1] != (BATCH,) or len(x.groups[0]) < 2:
        return None
    size = x.size(0)
    node = plainly(index.node)
    if node.op != "aten.add.Tensor" or node.kwargs or not all(isinstance(a, Node) for a in node.args):
        return None
    for own, offset in (node.args, node.args[::-1]):
        if _is_offset(reader, offset, size) and _within(own, size):
            wide = own if own.dims == index.node.dims else reader.node("expand", [own, index.node.dims])
            return Layout(wide, index.groups)
    return None


def plainly(node: Node) -> Node:
    while node.op in ("reshape", "expand", "permute"):
        node = node.args[0]
    return node


def _is_offset(reader: Reader, node: Node, size: int) -> bool:
    """Is this the row number times ``size``?"""
    node = plainly(node)
    if node.op not in ("aten.mul.Tensor", "aten.mul.Scalar"):
        return False
    for numbers, factor in (node.args, node.args[::-1]):
        if isinstance(numbers, Node) and is_row_numbers(plainly(numbers)):
            if isinstance(factor, Node):
                return not factor.batched and bool((reader.constant_tensor(factor) == size).all())
            return bool(factor == size)
    return False


def _within(node: Node, size: int) -> bool:
    """Are these places along an axis of ``size`` entries?"""
    node = plainly(node)
    if node.op in _PLACES:
        return bool(node.args[0].dims[node.args[1]] == size)
    if node.op == "item" and node.args[1] == 1 and node.args[0].op in _WITH_PLACES:
        whole = node.args[0].args
        return bool(whole[0].dims[whole[_WITH_PLACES[node.args[0].op]]] == size)
    return False

"""How a tensor of the model lies in a batch-first node.

The model sees logical dimensions; some hold the batch, alone ([B, L]) or folded with other axes ([B*heads], [L, B]).
A ``Layout`` writes each logical dimension as a row-major product of atoms: the batch, or an axis of the node. View,
transpose and squeeze then only regroup atoms, and the batch is never lost. A constant may hold the batch atom too: it
is the same for every row and stays unreplicated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthrank.sharing.ir import Graph, Node, product
from depthrank.sharing.refusal import Refused

BATCH = -1
Group = tuple[int, ...]
Size = tuple[int, bool]  # (how many, times the batch?)


@dataclass(frozen=True, eq=False)
class Layout:
    """A node, and for every logical dimension the atoms (``BATCH`` or an axis of ``node.dims``) it is made of."""

    node: Node
    groups: tuple[Group, ...]

    @property
    def rank(self) -> int:
        return len(self.groups)

    def atom_size(self, atom: int) -> int:
        return self.node.dims[atom]

    def size(self, dim: int) -> int:
        """The number of entries along a logical dimension, the batch not counted."""
        return product([self.atom_size(a) for a in self.groups[dim] if a != BATCH])

    def holds_batch(self, dim: int) -> bool:
        return BATCH in self.groups[dim]

    @property
    def batch_dim(self) -> int | None:
        """The logical dimension that holds the batch, if any."""
        return next((d for d in range(self.rank) if self.holds_batch(d)), None)

    def is_one(self, dim: int) -> bool:
        return not self.holds_batch(dim) and self.size(dim) == 1


def plain(node: Node) -> Layout:
    """The layout of a tensor as it is: rows first if it has rows, then its axes."""
    own: tuple[Group, ...] = tuple((k,) for k in range(len(node.dims)))
    return Layout(node, ((BATCH,), *own) if node.batched else own)


def reshape(graph: Graph, node: Node, dims: Sequence[int]) -> Node:
    """``node`` with other axes (row-major), unless it has them already; reshapes of reshapes become one."""
    dims = tuple(dims)
    while node.op == "reshape" and node.args[0].dtype == node.dtype:
        node = node.args[0]
    if dims == node.dims:
        return node
    return graph.add("reshape", (node, dims), node.region, dims, node.dtype)


def permute(graph: Graph, node: Node, order: Sequence[int]) -> Node:
    order = tuple(order)
    if order == tuple(range(len(node.dims))):
        return node
    return graph.add("permute", (node, order), node.region, [node.dims[k] for k in order], node.dtype)


def split_axis(graph: Graph, layout: Layout, axis: int, outer: int) -> Layout:
    """Axis of size s becomes two, (outer, s / outer)."""
    dims = layout.node.dims
    inner = dims[axis] // outer
    node = reshape(graph, layout.node, (*dims[:axis], outer, inner, *dims[axis + 1 :]))

    def renumber(group: Group) -> Group:
        out: list[int] = []
        for a in group:
            if a == axis:
                out += [axis, axis + 1]
            else:
                out.append(a + 1 if a > axis else a)
        return tuple(out)

    return Layout(node, tuple(renumber(g) for g in layout.groups))


def regroup(graph: Graph, layout: Layout, target: Sequence[Size]) -> Layout:
    """A row-major view: the atoms in order, cut into the target sizes; refuses where a cut goes through the batch."""
    while True:
        step = _cut(layout, target)
        if isinstance(step, tuple) and len(step) == 2 and isinstance(step[0], int):
            layout = split_axis(graph, layout, step[0], step[1])
            continue
        assert isinstance(step, list)
        return Layout(layout.node, tuple(step))


def _cut(layout: Layout, target: Sequence[Size]) -> list[Group] | tuple[int, int]:
    """The groups of the view, or (axis, outer size) of an axis that must be split first."""
    atoms = [a for g in layout.groups for a in g]
    groups: list[Group] = []
    position = 0
    for want, wants_batch in target:
        group: list[int] = []
        have, has_batch = 1, False
        while position < len(atoms) and (have < want or has_batch != wants_batch):
            atom = atoms[position]
            if atom == BATCH:
                if not wants_batch or has_batch:
                    raise Refused("a reshape mixes rows of the batch with other dimensions")
                has_batch = True
            else:
                size = layout.atom_size(atom)
                if want % (have * size) != 0:
                    outer = want // have
                    if outer <= 1 or size % outer != 0:
                        raise Refused("a reshape cuts across the batch dimension")
                    return atom, outer
                have *= size
            group.append(atom)
            position += 1
        if have != want or has_batch != wants_batch:
            raise Refused("a reshape changes the number of rows")
        groups.append(tuple(group))
    rest = atoms[position:]
    if any(a == BATCH or layout.atom_size(a) != 1 for a in rest):
        raise Refused("a reshape changes the number of rows")
    return groups


def align(graph: Graph, layouts: Sequence[Layout]) -> tuple[list[Node], tuple[Group, ...], tuple[int, ...]]:
    """Operands of an elementwise operation, brought to common axes (size 1 where an operand broadcasts).

    Returns the nodes, the groups of the result, and the sizes of its axes.
    """
    rank = max(x.rank for x in layouts)
    padded = [Layout(x.node, ((),) * (rank - x.rank) + x.groups) for x in layouts]
    for dim in range(rank):
        padded = _refine(graph, padded, dim)
    groups: list[Group] = []
    dims: list[int] = []
    sources: list[list[int | None]] = [[] for _ in padded]
    for dim in range(rank):
        full = [x for x in padded if not x.is_one(dim)]
        group: list[int] = []
        if full:
            lead = [a for a in full[0].groups[dim] if a == BATCH or full[0].atom_size(a) != 1]
            for place, atom in enumerate(lead):
                if atom == BATCH:
                    group.append(BATCH)
                    continue
                group.append(len(dims))
                dims.append(full[0].atom_size(atom))
                for own, x in zip(sources, padded):
                    if x.is_one(dim):
                        own.append(None)
                    else:
                        trimmed = [a for a in x.groups[dim] if a == BATCH or x.atom_size(a) != 1]
                        own.append(trimmed[place])
        groups.append(tuple(group))
    if sum(BATCH in g for g in groups) > 1:
        raise Refused("rows of the batch meet other rows (in-batch interaction)")
    nodes = [_place(graph, x.node, own) for x, own in zip(padded, sources)]
    return nodes, tuple(groups), tuple(dims)


def _place(graph: Graph, node: Node, axes: Sequence[int | None]) -> Node:
    """``node`` with its axes in this order, size 1 where None; axes not named have size 1 and go."""
    used = [a for a in axes if a is not None]
    ones = [a for a in range(len(node.dims)) if a not in used]
    assert all(node.dims[a] == 1 for a in ones)
    moved = permute(graph, node, [*used, *ones]) if used + ones != sorted(used + ones) else node
    return reshape(graph, moved, [1 if a is None else node.dims[a] for a in axes])


def _refine(graph: Graph, layouts: list[Layout], dim: int) -> list[Layout]:
    """Split axes until all operands that are not broadcast along ``dim`` have the same atoms there."""
    out = list(layouts)
    full = [k for k, x in enumerate(out) if not x.is_one(dim)]
    changed = True
    while changed:
        changed = False
        for first, second in zip(full, full[1:] + full[:1]):
            if first == second:
                continue
            step = _first_difference(out[first], out[second], dim)
            if step is not None:
                whose, axis, outer = step
                k = first if whose == 0 else second
                out[k] = split_axis(graph, out[k], axis, outer)
                changed = True
    return out


def _first_difference(x: Layout, y: Layout, dim: int) -> tuple[int, int, int] | None:
    a = [t for t in x.groups[dim] if t == BATCH or x.atom_size(t) != 1]
    b = [t for t in y.groups[dim] if t == BATCH or y.atom_size(t) != 1]
    for s, t in zip(a, b):
        if s == BATCH and t == BATCH:
            continue
        if s == BATCH or t == BATCH:
            raise Refused("rows of the batch meet another dimension elementwise (in-batch interaction)")
        p, q = x.atom_size(s), y.atom_size(t)
        if p == q:
            continue
        if p % q == 0:
            return 0, s, q
        if q % p == 0:
            return 1, t, p
        raise Refused("two tensors fold the batch in ways that cannot be matched")
    if len(a) != len(b):
        raise Refused("rows of the batch meet another dimension elementwise (in-batch interaction)")
    return None


def canonical(graph: Graph, layout: Layout, order: Sequence[int] | None = None) -> Layout:
    """One axis for each logical dimension without the batch (size 1 included), in logical order or in ``order``.

    Axes that are folded with the batch come first, each on its own.
    """
    dims = [d for d in (range(layout.rank) if order is None else order) if not layout.holds_batch(d)]
    holders = [d for d in range(layout.rank) if layout.holds_batch(d)]
    folded = [a for d in holders for a in layout.groups[d] if a != BATCH and layout.atom_size(a) != 1]
    axes = folded + [a for d in dims for a in layout.groups[d]]
    left_out = [a for a in range(len(layout.node.dims)) if a not in axes]
    assert all(layout.node.dims[a] == 1 for a in left_out)
    moved = permute(graph, layout.node, axes + left_out)
    sizes = [layout.node.dims[a] for a in folded] + [layout.size(d) for d in dims]
    node = reshape(graph, moved, sizes)
    number = {a: k for k, a in enumerate(folded)}
    groups: list[Group] = []
    for d in range(layout.rank):
        if layout.holds_batch(d):
            kept = [a for a in layout.groups[d] if a == BATCH or a in number]
            groups.append(tuple(BATCH if a == BATCH else number[a] for a in kept))
        else:
            groups.append((len(folded) + dims.index(d),))
    return Layout(node, tuple(groups))

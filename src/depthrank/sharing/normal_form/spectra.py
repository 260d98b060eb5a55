"""Fourier transforms and complex numbers along dimensions other than the batch."""

from __future__ import annotations

from depthrank.sharing.layout import Layout, align, canonical, reshape
from depthrank.sharing.normal_form.reader import Reader, rule


@rule(
    "aten.fft_fft.default",
    "aten.fft_ifft.default",
    "aten.fft_rfft.default",
    "aten.fft_irfft.default",
    "aten.fft_hfft.default",
    "aten.fft_ihfft.default",
)
def transform(reader: Reader, x: Layout, n: int | None = None, dim: int = -1, norm: str | None = None) -> Layout:
    """A transform along one dimension."""
    dim %= x.rank
    reader.forbid_batch(x, dim, "a Fourier transform over")
    flat = canonical(reader.graph, x)
    return Layout(reader.node(reader.name, [flat.node, n, reader.axis(flat, dim), norm]), flat.groups)


_NORMS = {True: ("backward", "ortho", "forward"), False: ("forward", "ortho", "backward")}  # by direction and number


@rule("aten._fft_c2c.default")
def transform_of_several(reader: Reader, x: Layout, dims: list[int], norm: int, forward: bool) -> Layout:
    """A transform along several dimensions, one after the other."""
    for d in dims:
        reader.forbid_batch(x, d % x.rank, "a Fourier transform over")
    flat = canonical(reader.graph, x)
    node = flat.node
    name = "aten.fft_fft.default" if forward else "aten.fft_ifft.default"
    for d in dims:
        node = reader.node(name, [node, None, reader.axis(flat, d % x.rank), _NORMS[forward][norm]])
    return Layout(node, flat.groups)


@rule("aten.view_as_complex.default")
def as_complex(reader: Reader, x: Layout) -> Layout:
    reader.forbid_batch(x, x.rank - 1, "a complex view over")
    flat = canonical(reader.graph, x)
    pairs = flat.groups[-1][0]
    if pairs != len(flat.node.dims) - 1:
        reader.refuse("a complex view of a dimension that does not come last")
    outer = flat.node.dims[:-1]
    halves = [reader.node("aten.slice.Tensor", [flat.node, -1, k, k + 1, 1], [*outer, 1], x.node.dtype) for k in (0, 1)]
    real, imag = (reshape(reader.graph, half, outer) for half in halves)
    return Layout(reader.node("aten.complex.default", [real, imag]), flat.groups[:-1])


@rule("aten.view_as_real.default")
def as_real(reader: Reader, x: Layout) -> Layout:
    real = reader.node("aten.real.default", [x.node])
    imag = reader.node("aten.imag.default", [x.node])
    thick = [reshape(reader.graph, n, [*n.dims, 1]) for n in (real, imag)]
    node = reader.node("cat", [thick, -1], [*x.node.dims, 2], real.dtype)
    return Layout(node, (*x.groups, (len(x.node.dims),)))


@rule("aten.real.default", "aten.imag.default", "aten.angle.default", "aten.conj.default", "aten._conj.default")
def part(reader: Reader, x: Layout) -> Layout:
    name = "aten.conj_physical.default" if "conj" in reader.name else reader.name
    return Layout(reader.node(name, [x.node]), x.groups)


@rule("aten.polar.default", "aten.complex.default")
def combined(reader: Reader, a: Layout, b: Layout) -> Layout:
    nodes, groups, dims = align(reader.graph, [a, b])
    return Layout(reader.node(reader.name, nodes, dims, reader.result_dtype()), groups)

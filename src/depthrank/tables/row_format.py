"""How the numbers of a row are stored: fp32, bf16, or 8 or 4 bits with a scale and a bias of the row's own.

A quantised row holds ``q_d = round((x_d - bias) / scale)``, bias its least number and scale its range over 255 or 15,
so that no row's outlier costs another row its precision. Bytes of a row of width D (little-endian; docs/tables.md):

    fp32   4 D       D fp32
    bf16   2 D       D bf16
    int8   D + 8     D uint8, fp32 scale, fp32 bias
    int4   D/2 + 4   D/2 uint8 (number 2i in the low half of byte i), fp16 scale, fp16 bias

These are the layouts of torch's ``quantized.embedding_bag_*_rowwise_offsets``, which reads them where they lie.

Legend: n rows, D width, B bytes of a row.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from depthrank.errors import DataError

RowFormat = Literal["fp32", "bf16", "int8", "int4"]
ROW_FORMATS: tuple[RowFormat, ...] = get_args(RowFormat)
"""From the widest to the narrowest; the place is the code in row files."""

_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8, "int4": torch.uint8}


def row_bytes(form: RowFormat, width: int) -> int:
    """Bytes of one row; raises DataError for 4 bits and an odd width."""
    if form == "int4" and width % 2:
        raise DataError(f"rows of width {width} cannot be int4, which holds two numbers a byte: use an even width")
    return {"fp32": 4 * width, "bf16": 2 * width, "int8": width + 8, "int4": width // 2 + 4}[form]


def stored_dtype(form: RowFormat) -> torch.dtype:
    """Type of the tensor of packed rows: numbers for fp32 and bf16, bytes otherwise."""
    return _DTYPE[form]


def stored_width(form: RowFormat, width: int) -> int:
    """Elements of a packed row."""
    return row_bytes(form, width) // stored_dtype(form).itemsize


def pack_rows(x_nD: Tensor, form: RowFormat) -> Tensor:
    """Rows fp32 [n, D] as they are stored, [n, stored_width]; raises DataError where a number is not finite."""
    x_nD = x_nD.detach().to(torch.float32).contiguous()
    row_bytes(form, x_nD.shape[1])  # the width fits the format
    if not bool(torch.isfinite(x_nD).all()):
        row = int((~torch.isfinite(x_nD)).any(dim=1).nonzero()[0])
        raise DataError(f"row {row} holds numbers that are not finite: training diverged, or the rows are damaged")
    if form == "fp32":
        return x_nD
    if form == "bf16":
        return x_nD.to(torch.bfloat16)
    if not x_nD.numel():
        return torch.zeros(x_nD.shape[0], row_bytes(form, x_nD.shape[1]), dtype=torch.uint8)
    prepack = torch.ops.quantized
    if form == "int8":
        return prepack.embedding_bag_byte_prepack(x_nD)  # type: ignore[no-any-return]
    return prepack.embedding_bag_4bit_prepack(x_nD)  # type: ignore[no-any-return]


def unpack_rows(packed_nB: Tensor, form: RowFormat, width: int) -> Tensor:
    """Inverse of ``pack_rows`` up to rounding: fp32 [n, D]; by the formula above, the reference for every kernel."""
    if form in ("fp32", "bf16"):
        return packed_nB.to(torch.float32)
    q_nD, scale_n1, bias_n1 = _parts(packed_nB.contiguous(), form, width)
    return q_nD * scale_n1 + bias_n1


def faulty_rows(packed_nB: Tensor, form: RowFormat, width: int) -> Tensor:
    """Indices [m] of packed rows that hold numbers, scales or biases that are not finite, or a negative scale."""
    if form in ("fp32", "bf16"):
        return (~torch.isfinite(packed_nB).all(dim=1)).nonzero().squeeze(1)
    _, scale_n1, bias_n1 = _parts(packed_nB.contiguous(), form, width, numbers=False)
    good_n1 = torch.isfinite(scale_n1) & torch.isfinite(bias_n1) & (scale_n1 >= 0)
    return (~good_n1.squeeze(1)).nonzero().squeeze(1)


def _parts(packed_nB: Tensor, form: RowFormat, width: int, numbers: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Quantised numbers [n, D], scale [n, 1], bias [n, 1], fp32."""
    split = width if form == "int8" else width // 2
    halves = packed_nB[:, split:].clone(memory_format=torch.contiguous_format)
    of_row = halves.view(torch.float32 if form == "int8" else torch.float16).float()
    q_nD = packed_nB[:, :split]
    if not numbers:
        q_nD = q_nD[:0]
    elif form == "int4":
        q_nD = torch.stack((q_nD & 15, q_nD >> 4), dim=2).flatten(1)
    return q_nD.float(), of_row[:, :1], of_row[:, 1:]

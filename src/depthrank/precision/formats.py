"""The number formats a layer may run in.

``fp32`` is the layer as trained. ``fp32-packed``: the same numbers, its weights laid out once for oneDNN. ``bf16``:
weights and inputs rounded to 8 bits of mantissa, summed in fp32. ``int8-static``: weights by output channel, inputs by
one scale a layer, found on calibration requests. ``int8-dynamic``: inputs by one scale a row, found as it comes; never
one over rows, or a candidate's score would depend on who else is ranked; of attention the scores alone, keys with one
scale each too. ``fp8-emulated``: e4m3 by row and by channel,
computed in fp32: it tells what fp8 would cost in accuracy, and is slower than anything else here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """A number format; the value is its name in a policy."""

    FP32 = "fp32"
    FP32_PACKED = "fp32-packed"
    BF16 = "bf16"
    INT8_STATIC = "int8-static"
    INT8_DYNAMIC = "int8-dynamic"
    FP8_EMULATED = "fp8-emulated"

    @property
    def is_int8(self) -> bool:
        """Whether products run on 8-bit integers."""
        return self in (Format.INT8_STATIC, Format.INT8_DYNAMIC)

    @property
    def peak(self) -> str:
        """Which of the machine's peaks this format's operations are held against."""
        return "int8" if self.is_int8 else "bf16" if self is Format.BF16 else "fp32"


LINEAR_FORMATS = (
    Format.FP32,
    Format.FP32_PACKED,
    Format.BF16,
    Format.INT8_STATIC,
    Format.INT8_DYNAMIC,
    Format.FP8_EMULATED,
)
ATTENTION_FORMATS = (Format.FP32, Format.BF16, Format.INT8_DYNAMIC)
FOR_ACCURACY_ONLY = (Format.FP8_EMULATED,)


@dataclass(frozen=True)
class LayerChoice:
    """The format of one layer; ``input_scale`` is what one step of an int8 input means (int8-static only)."""

    format: Format
    input_scale: float | None = None

    def __post_init__(self) -> None:
        assert (self.format is Format.INT8_STATIC) == (self.input_scale is not None)

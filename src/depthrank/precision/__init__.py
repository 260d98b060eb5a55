"""Number formats per layer: what they are, how a layer runs in one, and what this machine can do in each."""

from __future__ import annotations

from depthrank.kernels.hardware import Hardware, examine_hardware
from depthrank.precision.attention_layer import AttentionLayer
from depthrank.precision.formats import Format, LayerChoice
from depthrank.precision.in_formats import in_formats, layers_of
from depthrank.precision.peaks import Peaks, measure_peaks
from depthrank.precision.policy import PrecisionPolicy, read_policy, write_policy
from depthrank.precision.row_linear import RowLinear

__all__ = [
    "AttentionLayer",
    "Format",
    "Hardware",
    "LayerChoice",
    "Peaks",
    "PrecisionPolicy",
    "RowLinear",
    "examine_hardware",
    "in_formats",
    "layers_of",
    "measure_peaks",
    "read_policy",
    "write_policy",
]

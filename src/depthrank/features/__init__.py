"""Columns and events -> encoded matrices; counters as of a time; one implementation, offline and online."""

from __future__ import annotations

from depthrank.features.code_map import HistoryCodes
from depthrank.features.counters import Counters
from depthrank.features.encoder import FeatureEncoder, FitSample
from depthrank.features.layout import (
    FIRST_KNOWN,
    PADDING,
    UNKNOWN,
    Encoded,
    EncodedHistory,
    EncoderLayout,
    FloatSlot,
    IdSlot,
    SideLayout,
)

__all__ = [
    "FIRST_KNOWN",
    "PADDING",
    "UNKNOWN",
    "Counters",
    "Encoded",
    "EncodedHistory",
    "EncoderLayout",
    "FeatureEncoder",
    "FitSample",
    "FloatSlot",
    "HistoryCodes",
    "IdSlot",
    "SideLayout",
]

"""A value as an error message shows it: short, whatever a client sent."""

from __future__ import annotations

_MAX_CHARS = 80


def shown(value: object) -> str:
    """At most 80 characters; never costs more than that, and never raises."""
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[:_MAX_CHARS] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 3] + "..."

"""CPU seconds that a server says it has used."""

from __future__ import annotations

NAMES = (b"depthrank_cpu_seconds_total ", b"process_cpu_seconds_total ")
"""Front and engine processes together; else the process that answers."""


def cpu_s_in_metrics(text: bytes) -> float | None:
    """CPU seconds in a Prometheus text; None where it has none."""
    found = {name: float(line[len(name) :]) for line in text.splitlines() for name in NAMES if line.startswith(name)}
    return next((found[name] for name in NAMES if name in found), None)

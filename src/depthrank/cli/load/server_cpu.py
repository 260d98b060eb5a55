"""CPU seconds that a server has used: its own processes where we started it, else what its metrics say."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
NAMES = (b"depthrank_cpu_seconds_total ", b"process_cpu_seconds_total ")
"""Front and engine processes together; else the process that answers."""


def cpu_s_of_tree(pid: int) -> float | None:
    """CPU seconds of a process and its descendants that live; None where there is no /proc."""
    if not PROC.is_dir():
        return None
    return sum(_cpu_s(each) for each in _tree(pid))


def cpu_s_in_metrics(text: bytes) -> float | None:
    """CPU seconds in a Prometheus text; None where it has none."""
    found = {name: float(line[len(name) :]) for line in text.splitlines() for name in NAMES if line.startswith(name)}
    return next((found[name] for name in NAMES if name in found), None)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        for children in PROC.glob(f"{each}/task/*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # a thread that has ended
                continue
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

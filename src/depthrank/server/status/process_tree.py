"""CPU and memory of the server's processes together: the front, and the engine processes below it. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PROC = Path("/proc")


def process_tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for each in found:
        for children in PROC.glob(f"{each}/task/*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # a thread that has ended
                continue
    return found


def cpu_s_of_tree(pid: int) -> float | None:
    """CPU seconds of a process and its descendants, those that ended included; None where there is no /proc."""
    return sum(_usage(each)[0] for each in process_tree(pid)) if PROC.is_dir() else None


class ProcessTreeMetrics(Collector):
    """Read when the metrics are."""

    def collect(self) -> Iterator[Metric]:
        """CPU seconds, resident bytes and the number of processes."""
        if not PROC.is_dir():
            return
        seconds = bytes_ = 0.0
        pids = process_tree(os.getpid())
        for pid in pids:
            used = _usage(pid)
            seconds, bytes_ = seconds + used[0], bytes_ + used[1]
        yield CounterMetricFamily("depthrank_cpu_seconds", "CPU time of all processes of the server", value=seconds)
        yield GaugeMetricFamily(
            "depthrank_resident_bytes", "Memory of all processes, shared pages counted in each", value=bytes_
        )
        yield GaugeMetricFamily("depthrank_processes", "Processes of the server", value=len(pids))


def _usage(pid: int) -> tuple[float, float]:
    """CPU seconds (its own, and those of its children that ended) and resident bytes; zeros once it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK"), float(int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))

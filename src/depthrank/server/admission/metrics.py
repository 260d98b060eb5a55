"""What an operator watches of admission and engines, read from the dispatcher when the metrics are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class AdmissionMetrics(Collector):
    """``status``: of the dispatcher."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Gates, prices, lanes."""
        status = self._status()
        acted = CounterMetricFamily(
            "depthrank_admission", "What gates did, or would have done", labels=["gate", "what", "priority"]
        )
        for one in status["acted"]:
            acted.add_metric([one["gate"], one["what"], one["priority"]], one["times"])
        yield acted
        yield GaugeMetricFamily(
            "depthrank_load", "Predicted work let in, as a share of the measured capacity", value=status["load"]
        )
        for name, text, values in (
            ("depthrank_price", "Price of compute: value a thread-millisecond must gain", status["price"]),
            ("depthrank_price_ratio", "Price of compute as a multiple of the usual one", status["dearness"]),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for version, value in values.items():
                if value is not None:
                    gauge.add_metric([version], value)
            yield gauge
        shed = GaugeMetricFamily("depthrank_shed_share", "Share of users refused this hour", labels=["priority"])
        for priority, share in status["shed_shares"].items():
            shed.add_metric([priority], share)
        yield shed
        yield GaugeMetricFamily(
            "depthrank_guard_limit_seconds", "Work that may wait in one engine", value=status["guard_limit_ms"] / 1e3
        )
        yield GaugeMetricFamily(
            "depthrank_reserve_seconds",
            "Time before a deadline kept for the way back",
            value=status["reserve_ms"] / 1e3,
        )
        yield CounterMetricFamily(
            "depthrank_engine_restarts", "Engine processes started again", value=status["restarts"]
        )
        yield CounterMetricFamily(
            "depthrank_engine_retries", "Requests that ran again after their engine was lost", value=status["retried"]
        )
        yield from _lanes(status["lanes"])


def _lanes(lanes: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, text, field, scale in (
        ("depthrank_engine_up", "1 when the engine takes requests", "up", 1.0),
        ("depthrank_engine_waiting", "Requests that wait for the engine", "waiting", 1.0),
        ("depthrank_engine_backlog_seconds", "Time until all it has is served by the router", "backlog_ms", 1e-3),
        ("depthrank_engine_speed", "Thread time it gets out of wall time", "speed", 1.0),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["engine"])
        for number, lane in enumerate(lanes):
            gauge.add_metric([str(number)], float(lane[field]) * scale)
        yield gauge

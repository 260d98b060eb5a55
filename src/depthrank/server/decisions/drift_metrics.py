"""Drift in Prometheus form: the newest hour with labels, by task and model version."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from depthrank.server.decisions.drift import Drift, HourFigures

LABELS = ["task", "model"]


class DriftMetrics(Collector):
    """Read when the metrics are."""

    def __init__(self, drift: Drift) -> None:
        self._drift = drift

    def collect(self) -> Iterator[Metric]:
        """NE, calibration and labelled impressions of the newest hour."""
        ne = GaugeMetricFamily("depthrank_drift_ne", "Normalized entropy in the newest labelled hour", labels=LABELS)
        calibration = GaugeMetricFamily("depthrank_drift_calibration", "Mean prediction over mean label", labels=LABELS)
        counted = GaugeMetricFamily("depthrank_drift_impressions", "Labelled impressions of that hour", labels=LABELS)
        newest: dict[tuple[str, str], HourFigures] = {}
        for _, task, model, figures in self._drift.by_hour():
            newest[task, model] = figures
        for (task, model), figures in newest.items():
            counted.add_metric([task, model], figures.impressions)
            if figures.ne is not None:
                ne.add_metric([task, model], figures.ne)
            if figures.calibration is not None:
                calibration.add_metric([task, model], figures.calibration)
        yield from (ne, calibration, counted)
        waiting = self._drift.waiting
        yield GaugeMetricFamily("depthrank_drift_waiting", "Impressions whose labels are awaited", value=waiting)
        left_out = self._drift.left_out
        yield CounterMetricFamily("depthrank_drift_left_out", "Requests beyond drift_impressions", value=left_out)

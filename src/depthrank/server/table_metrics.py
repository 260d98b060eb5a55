"""What an operator watches of tables: deltas that serve or are refused, changed rows, rows found in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class TableMetrics(Collector):
    """``info`` and ``measures`` are those of the ranker that most requests get."""

    def __init__(
        self,
        info: Callable[[], Mapping[str, Any]],
        measures: Callable[[], Mapping[str, float]],
        refused: Callable[[], bool],
    ) -> None:
        self._info, self._measures, self._refused = info, measures, refused

    def collect(self) -> Iterator[Metric]:
        """Read when the metrics are."""
        measured = self._measures()
        applied = float(self._info().get("deltas", 0))
        yield GaugeMetricFamily("depthrank_deltas_applied", "Deltas over the artifact that serve", applied)
        refused = float(self._refused())
        yield GaugeMetricFamily(
            "depthrank_deltas_refused", "1 while the watched folder holds a delta that is refused", refused
        )
        overlaid = measured.get("rows_overlaid", 0.0)
        yield GaugeMetricFamily(
            "depthrank_rows_overlaid", "Table rows of deltas that lie over the mapped file", overlaid
        )
        lookups, hits = measured.get("hot_row_lookups", 0.0), measured.get("hot_row_hits", 0.0)
        found = CounterMetricFamily(
            "depthrank_hot_row_lookups", "Rows asked of tables with hot rows, by where they were", labels=["found"]
        )
        found.add_metric(["memory"], hits)
        found.add_metric(["file"], lookups - hits)
        yield found

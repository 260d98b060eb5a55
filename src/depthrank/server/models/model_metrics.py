"""Versions in Prometheus form, read when the metrics are: a version that is gone has no series."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from depthrank.server.models.shadow import Shadow
from depthrank.server.models.versions import Models


class ModelMetrics(Collector):
    """Answers, failures and labels of each version, the shadow's agreement, switches and rollbacks."""

    def __init__(self, models: Models, shadow: Shadow) -> None:
        self._models, self._shadow = models, shadow

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        models, labels = self._models, self._models.labels
        answers = CounterMetricFamily("depthrank_model_answers", "Answers of a model version", labels=["model"])
        errors = CounterMetricFamily("depthrank_model_errors", "Requests that a model version failed", labels=["model"])
        seconds = CounterMetricFamily("depthrank_model_rank_seconds", "Time ranking by a version", labels=["model"])
        held = GaugeMetricFamily("depthrank_model_label", "1: the version has the label", labels=["model", "label"])
        for version in models.versions:
            answers.add_metric([version.model], version.recent.answers)
            errors.add_metric([version.model], version.recent.errors)
            seconds.add_metric([version.model], version.recent.seconds)
            for label in labels.labels_of(version):
                held.add_metric([version.model, label], 1)
        yield from (answers, errors, seconds, held)
        yield GaugeMetricFamily(
            "depthrank_model_loading", "1 while a version loads", value=float(models.loading is not None)
        )
        yield CounterMetricFamily("depthrank_model_switches", "Changes of the stable version", value=models.switches)
        yield CounterMetricFamily("depthrank_canary_rollbacks", "Canaries rolled back", value=models.canary.rollbacks)
        yield from self._agreement()

    def _agreement(self) -> Iterator[Metric]:
        compared = CounterMetricFamily("depthrank_shadow_answers", "Requests compared with stable", labels=["model"])
        failed = CounterMetricFamily("depthrank_shadow_errors", "Requests that the shadow failed", labels=["model"])
        dropped = CounterMetricFamily("depthrank_shadow_dropped", "Copies not ranked", labels=["model", "reason"])
        overlap = CounterMetricFamily(
            "depthrank_shadow_overlap_at_10", "Sum of shares of stable's first ten", labels=["model"]
        )
        differ = CounterMetricFamily(
            "depthrank_shadow_value_difference", "Sum of relative differences", labels=["model"]
        )
        seconds = CounterMetricFamily("depthrank_shadow_rank_seconds", "Time ranking by the shadow", labels=["model"])
        for model, agreement in self._shadow.agreement.items():
            compared.add_metric([model], agreement.answers)
            failed.add_metric([model], agreement.failed)
            dropped.add_metric([model, "load"], agreement.dropped_load)
            dropped.add_metric([model, "queue_full"], agreement.dropped_queue)
            overlap.add_metric([model], agreement.overlap)
            differ.add_metric([model], agreement.difference)
            seconds.add_metric([model], agreement.seconds)
        yield from (compared, failed, dropped, overlap, differ, seconds)

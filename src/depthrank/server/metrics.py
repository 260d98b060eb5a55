"""What an operator watches, in Prometheus form and in seconds; docs/operations.md lists it. A registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CANDIDATES = (0, 1, 10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 50_000)
MOST_STAGES = 64
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"depthrank_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"depthrank_{name}_seconds", text, labels, registry=registry, buckets=SECONDS)

        self.requests = counter("requests", "HTTP answers", "endpoint", "method", "status")
        self.request_seconds = seconds(
            "request", "From the first byte of a request to the last of its answer", "endpoint"
        )
        self.rank_wait_seconds = seconds("rank_wait", "Time a request waited for a rank thread")
        self.rank_seconds = seconds("rank", "Time in the engine")
        self.stage_seconds = seconds("rank_stage", "Time in one stage of the engine", "stage")
        self.candidates = Histogram(
            "depthrank_candidates", "Candidates of a request, after level 0", registry=registry, buckets=CANDIDATES
        )
        self.degraded = counter("degraded_answers", "Answers that are less than was asked for")
        self.refused = counter("refused", "Requests refused for lack of room", "queue")
        self.late = counter("late", "Requests whose deadline passed before they were scored")
        self.vanished = counter("vanished_clients", "Clients that left before their answer")
        self.errors = counter("internal_errors", "Answers with status 500; the log has each under its request id")
        self.events = counter("events_appended", "Events appended by clients")
        self.duplicates = counter("events_duplicate", "Events skipped since their event_id was known")
        self.events_unread = counter("events_unread", "Events of actions that the served spec does not read")
        self.warned = counter("warned_answers", "Rankings of requests without columns that the model reads")
        self.append_seconds = seconds("append", "Time to append a batch durably, waiting included")
        self.served = counter("served_answers_logged", "Answers whose impressions were logged")
        self.served_lost = counter("served_answers_lost", "Answers whose impressions were not logged", "reason")
        self.ready = Gauge("depthrank_ready", "1 when warm and not draining", registry=registry)
        self.stage: Callable[[str], Histogram] = lru_cache(MOST_STAGES)(self.stage_seconds.labels)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when the metrics are."""
        Gauge(f"depthrank_{name}", text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class RankerMetrics(Collector):
    """What a ranker measures of itself, read when the metrics are."""

    def __init__(self, measures: Callable[[], Mapping[str, float]]) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        """The user-state cache, and how far off predicted costs are."""
        measured = self._measures()
        found = CounterMetricFamily("depthrank_user_states_found", "User states as requests found them", labels=["how"])
        for how in ("warm", "extended", "cold"):
            found.add_metric([how], measured.get(f"user_states_{how}", 0.0))
        yield found
        unread = measured.get("histories_unread", 0.0)
        yield CounterMetricFamily(
            "depthrank_histories_unread", "Requests ranked without history, as the log failed", unread
        )
        down = measured.get("log_down", 0.0)
        yield GaugeMetricFamily("depthrank_log_unreadable", "1 while the latest read of the event log failed", down)
        evicted = measured.get("user_states_evicted", 0.0)
        yield CounterMetricFamily("depthrank_user_states_evicted", "User states dropped for room", value=evicted)
        older = measured.get("user_states_older", 0.0)
        yield CounterMetricFamily("depthrank_user_states_older", "User states used from before a delta", value=older)
        held = measured.get("user_states_held", 0.0)
        yield GaugeMetricFamily("depthrank_user_states", "User states in the cache", value=held)
        size = measured.get("user_state_bytes", 0.0)
        yield GaugeMetricFamily("depthrank_user_state_bytes", "Bytes of the user states in the cache", value=size)
        tuned = measured.get("layers_tuned", 0.0)
        yield GaugeMetricFamily("depthrank_layers_tuned", "Layers in another format than fp32", value=tuned)
        error = GaugeMetricFamily("depthrank_cost_error", "|predicted - actual| / actual", labels=["quantile"])
        for quantile, name in (("0.5", "cost_error_p50"), ("0.9", "cost_error_p90")):
            if name in measured:
                error.add_metric([quantile], measured[name])
        yield error

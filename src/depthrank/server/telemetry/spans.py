"""Traces by OpenTelemetry: a span for a request, below it its time in the queue and every stage of the engine.

Stages are told when they are over, so their spans are made from their times: the queue from the start of the ranking,
the stages end to end before its end. A ``traceparent`` that came with the request is its parent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from depthrank.errors import DepthrankError
from depthrank.schema import Answer, Request

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

QUEUE = "wait"
NO_STAGE = frozenset({QUEUE, "total", "decode"})
NS = 1_000_000_000


class TracingError(DepthrankError):
    """Tracing is asked for and cannot be had."""


class Tracing:
    """``provider`` None: the process's own. Raises TracingError where OpenTelemetry is not installed."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise TracingError("tracing needs OpenTelemetry: pip install 'depthrank[telemetry]'") from None
        self._trace = trace
        self._tracer = trace.get_tracer("depthrank", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()
        self._under_way: dict[str, tuple[Span, str]] = {}

    def began(self, request_id: str, method: str, headers: Mapping[str, str]) -> None:
        """A request came in."""
        parent = self._propagator.extract(headers)
        attributes = {"http.request.method": method, "depthrank.request_id": request_id}
        kind = self._trace.SpanKind.SERVER
        self._under_way[request_id] = self._tracer.start_span(method, parent, kind, attributes), method

    def ended(self, request_id: str, endpoint: str, status: int) -> None:
        """Its answer has left; 499: the client left first."""
        found = self._under_way.pop(request_id, None)
        if found is None:  # another request came with the same id
            return
        span, method = found
        span.update_name(f"{method} {endpoint}")
        span.set_attribute("http.route", endpoint)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def answered(self, request: Request, answer: Answer, seconds: float) -> None:
        """A ranking is done: its spans."""
        parent = self._under_way.get(answer.request_id)
        end_ns = time.time_ns()
        start_ns = end_ns - int(seconds * NS)
        attributes: dict[str, Any] = {
            "depthrank.model": answer.model,
            "depthrank.mode": request.mode,
            "depthrank.plan": list(answer.plan),
            "depthrank.candidates_scored": list(answer.candidates_scored),
            "depthrank.degraded": list(answer.degraded.reasons),
        }
        context = None if parent is None else self._trace.set_span_in_context(parent[0])
        ranking = self._tracer.start_span("rank", context, attributes=attributes, start_time=start_ns)
        inside = self._trace.set_span_in_context(ranking)
        self._stages(answer, inside, start_ns, end_ns)
        ranking.end(end_ns)

    def _stages(self, answer: Answer, inside: Any, start_ns: int, end_ns: int) -> None:
        timings_ms = answer.timings_ms
        if QUEUE in timings_ms:
            queue = self._tracer.start_span("queue", inside, start_time=start_ns)
            queue.end(start_ns + int(timings_ms[QUEUE] * 1e6))
        stages = [(name, int(ms * 1e6)) for name, ms in timings_ms.items() if name not in NO_STAGE]
        at_ns = end_ns - sum(took for _, took in stages)
        for name, took_ns in stages:
            attributes = self._of_level(name, answer)
            self._tracer.start_span(name, inside, attributes=attributes, start_time=at_ns).end(at_ns + took_ns)
            at_ns += took_ns

    def _of_level(self, name: str, answer: Answer) -> dict[str, int]:
        """What a level scored."""
        number = name.removeprefix("level")
        if number == name or not number.isdigit() or int(number) >= len(answer.candidates_scored):
            return {}
        return {"depthrank.candidates": answer.candidates_scored[int(number)]}

    def refused(self, request: Request, reason: str) -> None:
        """Nothing: the request's own span carries its status."""

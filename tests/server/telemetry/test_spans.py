"""Traces: a span for a request, its queue and its levels; off unless configured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_server import Live, live_server

from depthrank.server import ServerSettings
from depthrank.server.telemetry.settings import TelemetrySettings
from depthrank.server.telemetry.spans import Tracing

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra telemetry is not installed")
from opentelemetry.sdk.trace import ReadableSpan  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Live, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("depthrank.server.app.Tracing", lambda: Tracing(provider))
    with live_server(settings=ServerSettings(telemetry=TelemetrySettings(tracing=True))) as live:
        yield live, exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_its_queue_and_its_stages_are_spans_below_each_other(
    traced: tuple[Live, InMemorySpanExporter],
) -> None:
    live, exporter = traced
    body = {"user": "somebody", "candidates": list(range(30))}
    live.client.post("/v1/rank", json=body, headers={"traceparent": PARENT, "X-Request-Id": "r-19"})
    live.client.get("/health/live")  # when this is answered the first has ended
    spans = by_name(exporter)
    request, ranking = spans["POST /v1/rank"], spans["rank"]
    assert request.parent is not None and f"{request.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert request.attributes is not None and request.attributes["http.response.status_code"] == 200
    assert request.attributes["depthrank.request_id"] == "r-19"
    assert ranking.parent is not None and ranking.parent.span_id == request.context.span_id
    assert ranking.attributes is not None and ranking.attributes["depthrank.candidates_scored"] == (30, 16)
    for name in ("queue", "history", "level_0", "expert"):
        stage = spans[name]
        assert stage.parent is not None and stage.parent.span_id == ranking.context.span_id
        assert ranking.start_time <= stage.start_time <= stage.end_time <= ranking.end_time + 1  # type: ignore[operator]
    told = str([dict(span.attributes or {}) for span in exporter.get_finished_spans()])
    assert "somebody" not in told, "a trace holds no user"


def test_a_failed_request_is_an_error_span(traced: tuple[Live, InMemorySpanExporter]) -> None:
    live, exporter = traced

    def broken() -> None:
        raise RuntimeError

    live.ranker.rank_fault = broken
    assert live.client.post("/v1/rank", json={"user": "u", "candidates": [1]}).status_code == 500
    live.client.get("/health/live")
    span = by_name(exporter)["POST /v1/rank"]
    assert not span.status.is_ok
    assert "rank" not in by_name(exporter)


def test_tracing_is_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("tracing was made")

    monkeypatch.setattr("depthrank.server.app.Tracing", never)
    with live_server() as live:
        assert live.client.get("/health/live").status_code == 200

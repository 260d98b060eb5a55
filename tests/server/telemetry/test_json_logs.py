"""Log lines for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from live_server import live_server

from depthrank.server import ServerSettings
from depthrank.server.telemetry.json_logs import JsonFormatter
from depthrank.server.telemetry.settings import TelemetrySettings


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """What the server logs, as it would be written."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("depthrank")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def of(stream: StringIO, logger: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if line["logger"] == logger]


def test_a_failure_is_one_line_with_its_request_id_and_traceback(lines: StringIO) -> None:
    with live_server() as live:

        def broken() -> None:
            raise RuntimeError("two\nlines")

        live.ranker.rank_fault = broken
        live.client.post("/v1/rank", json={"user": "u", "candidates": [1]}, headers={"X-Request-Id": "r-17"})
    (line,) = of(lines, "depthrank.server")
    assert line["request_id"] == "r-17" and line["level"] == "error"
    assert "RuntimeError: two\nlines" in str(line["traceback"])
    assert str(line["time"]).endswith("+00:00")


def test_an_access_line_names_endpoint_and_status_and_no_user(lines: StringIO) -> None:
    settings = ServerSettings(telemetry=TelemetrySettings(access_log=True))
    with live_server(settings=settings) as live:
        live.client.get("/v1/users/somebody/history", headers={"X-Request-Id": "r-18"})
        live.client.get("/made/up")
    first, second = of(lines, "depthrank.access")
    assert (first["endpoint"], first["status"], first["request_id"]) == ("/v1/users/{user}/history", 200, "r-18")
    assert isinstance(first["ms"], float) and first["client"] == "address:127.0.0.1"
    assert (second["endpoint"], second["status"]) == ("other", 404)
    assert "somebody" not in lines.getvalue()


def test_there_are_no_access_lines_unless_they_are_asked_for(lines: StringIO) -> None:
    with live_server() as live:
        live.client.get("/health/live")
    assert of(lines, "depthrank.access") == []


def test_what_json_cannot_hold_becomes_text() -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "%s", (object,), None)
    record.client = Path("/x")
    assert json.loads(JsonFormatter().format(record))["client"] == "/x"

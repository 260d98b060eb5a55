"""Settings of logs and traces."""

from __future__ import annotations

from typing import Literal

import msgspec


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """log_format: ``json`` writes an object a line. access_log: a line a request, without bodies, ids of users or
    tokens. tracing: spans by OpenTelemetry (``pip install depthrank[telemetry]``), to the provider that the process has
    configured, such as by ``opentelemetry-instrument``."""

    log_format: Literal["text", "json"] = "text"
    access_log: bool = False
    tracing: bool = False

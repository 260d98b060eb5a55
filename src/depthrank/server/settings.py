"""How a server runs: limits, threads, queues and patience. Everything has a default that suits one machine.

``settings_sources`` reads them from a file, the environment and options; each subsystem's part stands beside its code.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from depthrank.schema import Limits
from depthrank.server.access.settings import AccessSettings
from depthrank.server.admission.settings import AdmissionSettings
from depthrank.server.after_ranking.settings import AfterSettings
from depthrank.server.decisions.settings import DecisionSettings
from depthrank.server.models.settings import ModelSettings
from depthrank.server.status.disk_watermark import StorageSettings
from depthrank.server.telemetry.settings import TelemetrySettings
from depthrank.server.workers.settings import WorkerSettings

AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]

SECRET = frozenset({"sha256", "password", "secret", "headers"})
"""Names of fields whose values nobody is shown."""
HIDDEN = "(hidden)"


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``rank_queue`` and ``log_queue`` bound what waits beside what runs; beyond them the answer is 503.

    limits: what a body may hold. rank_threads: threads that score; one, since one request uses the cores itself.
    log_threads: concurrent appends, reads and upserts; appends that wait together share one fsync.
    served_queue: answers whose impressions wait to be logged; beyond it they are dropped and counted.
    body_timeout_s: a body that takes longer is a 408. drain_timeout_s: how long SIGTERM waits for requests under way.
    max_history: events that a history returns. decode_in_thread_bytes: larger bodies are not decoded on the event loop.
    access: tokens, TLS, quotas, connections. models: versions, canary, shadow. decisions: records and drift. after:
    filters, caps, diversity and exploration. storage: what stays free of the disk. telemetry: log lines and traces.
    """

    limits: Limits = Limits()
    rank_threads: AtLeastOne = 1
    rank_queue: NotNegative = 1_024
    log_threads: AtLeastOne = 16
    log_queue: NotNegative = 1_024
    served_queue: NotNegative = 1_024
    log_served: bool = True
    body_timeout_s: Seconds = 30.0
    drain_timeout_s: AtLeastOne = 30
    keep_alive_s: AtLeastOne = 75
    max_history: AtLeastOne = 10_000
    decode_in_thread_bytes: NotNegative = 256 * 1024
    access: AccessSettings = AccessSettings()
    admission: AdmissionSettings = AdmissionSettings()
    workers: WorkerSettings = WorkerSettings()
    models: ModelSettings = ModelSettings()
    decisions: DecisionSettings = DecisionSettings()
    after: AfterSettings = AfterSettings()
    storage: StorageSettings = StorageSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


def redacted(settings: ServerSettings) -> dict[str, Any]:
    """The settings as plain data, without secrets: fields in ``SECRET``, and passwords within URLs."""
    shown = _redacted(msgspec.to_builtins(settings))
    assert isinstance(shown, dict)
    return shown


def changed(settings: ServerSettings, before: ServerSettings | None = None) -> list[str]:
    """Paths of the settings that are not what they were ``before`` (by default: their defaults), such as
    ``access.tls_cert``; a changed secret is not seen."""
    return _different(redacted(settings), redacted(before or ServerSettings()), "")


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: HIDDEN if k in SECRET and v else _redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(v) for v in value]
    return _without_password(value) if isinstance(value, str) else value


def _without_password(text: str) -> str:
    if "@" not in text or "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN
    return parts._replace(netloc=f"{HIDDEN}@{parts.netloc.rpartition('@')[2]}").geturl()


def _different(ours: dict[str, Any], default: dict[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for name, value in ours.items():
        other = default.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found += _different(value, other, f"{prefix}{name}.")
        elif value != other:
            found.append(prefix + name)
    return found

"""Log lines for machines: one JSON object a line, with the request id where a line belongs to a request."""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

REQUEST_ID: ContextVar[str | None] = ContextVar("depthrank_request_id", default=None)
"""Of the conversation that this code serves; set by ``Conversation``."""
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ENCODER = msgspec.json.Encoder(enc_hook=str)
FIELDS = ("endpoint", "method", "status", "ms", "client")
"""What an access line adds, as ``extra``."""


class JsonFormatter(logging.Formatter):
    """``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``; where known ``request_id``, the fields of an access
    line, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None) or REQUEST_ID.get()
        if request_id is not None:
            line["request_id"] = request_id
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return _ENCODER.encode(line).decode()


def configure_logs(log_format: Literal["text", "json"], level: int = logging.INFO) -> None:
    """Set up the process's log lines, on standard error; for commands, not for a library."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)

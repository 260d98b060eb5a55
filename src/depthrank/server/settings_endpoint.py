"""GET /v1/settings."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.server.answers import SettingsView, json_answer
from depthrank.server.service import Service
from depthrank.server.settings import changed, redacted


async def show_settings(http: HttpRequest) -> Response:
    """What this server runs with, without secrets, and which of it is not the default."""
    service: Service = http.app.state.service
    return json_answer(SettingsView(redacted(service.settings), changed(service.settings)))

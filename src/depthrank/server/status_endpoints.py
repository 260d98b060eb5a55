"""GET /health/live, /health/ready, /metrics."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.server.answers import Health, json_answer
from depthrank.server.error_answers import error_answer, request_id_of
from depthrank.server.metrics import CONTENT_TYPE
from depthrank.server.service import Phase, Service


async def live(_http: HttpRequest) -> Response:
    """200 as long as the process answers."""
    return json_answer(Health("alive"))


async def ready(http: HttpRequest) -> Response:
    """200 when warm and not draining; 503 otherwise."""
    service: Service = http.app.state.service
    if service.phase is not Phase.READY:
        message = f"the server is {service.phase.value}"
        return error_answer(request_id_of(http), 503, "not_ready", message, headers={"Retry-After": "1"})
    return json_answer(Health("ready", service.trouble))


async def show_metrics(http: HttpRequest) -> Response:
    """Prometheus text."""
    service: Service = http.app.state.service
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

"""GET /v1/models, /health/live, /health/ready, /metrics."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.server.answers import Health, Models, ModelView, json_answer
from depthrank.server.error_answers import error_answer, request_id_of
from depthrank.server.metrics import CONTENT_TYPE
from depthrank.server.service import Phase, Service


async def show_models(http: HttpRequest) -> Response:
    """The loaded model and what is known of it."""
    service: Service = http.app.state.service
    info = await service.in_log_pool(service.ranker.info)
    spec = service.ranker.spec
    tasks = {task: spec.action_of(task) for task in spec.tasks}
    num_items = service.ranker.generation.items.size - 1  # without the unknown one
    return json_answer(Models([ModelView(spec.name, service.phase.value, num_items, tasks, info)]))


async def live(_http: HttpRequest) -> Response:
    """200 as long as the process answers."""
    return json_answer(Health("alive"))


async def ready(http: HttpRequest) -> Response:
    """200 when warm and not draining; 503 otherwise."""
    service: Service = http.app.state.service
    if service.phase is not Phase.READY:
        message = f"the server is {service.phase.value}"
        return error_answer(request_id_of(http), 503, "not_ready", message, headers={"Retry-After": "1"})
    trouble = [f"served impressions are being lost: {service.served.trouble}"] if service.served.trouble else []
    return json_answer(Health("ready", trouble))


async def show_metrics(http: HttpRequest) -> Response:
    """Prometheus text."""
    service: Service = http.app.state.service
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

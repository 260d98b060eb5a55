"""The ASGI application: routes, the middleware in order, and the life of the service behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from depthrank.events.log import now_ms
from depthrank.server.access.guard import Access
from depthrank.server.access.quotas import Quotas
from depthrank.server.access.tokens import Tokens
from depthrank.server.conversation import Conversation
from depthrank.server.error_answers import HANDLERS
from depthrank.server.events_endpoint import append_events
from depthrank.server.items_endpoint import show_items, upsert_items
from depthrank.server.models.endpoint import change_models, show_models
from depthrank.server.openapi import openapi_document
from depthrank.server.page.endpoint import PAGE_ROUTES
from depthrank.server.protocols.oip_endpoints import OIP_ROUTES
from depthrank.server.protocols.rerank import rerank
from depthrank.server.rank_endpoint import rank
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.service import Service
from depthrank.server.settings import ServerSettings
from depthrank.server.settings_endpoint import show_settings
from depthrank.server.status.endpoint import show_sample, show_status
from depthrank.server.status_endpoints import live, ready, show_metrics
from depthrank.server.telemetry.spans import Tracing
from depthrank.server.users_endpoint import erase_user, show_history
from depthrank.server.workers.engines import Engines


async def openapi(_http: HttpRequest) -> Response:
    """The OpenAPI description."""
    return Response(openapi_document(), media_type="application/json")


async def models(http: HttpRequest) -> Response:
    """Both verbs of /v1/models."""
    return await (change_models(http) if http.method == "POST" else show_models(http))


async def items(http: HttpRequest) -> Response:
    """Both verbs of /v1/items."""
    return await (upsert_items(http) if http.method == "POST" else show_items(http))


ROUTES = (
    Route("/v1/rank", rank, methods=["POST"]),
    Route("/v1/rerank", rerank, methods=["POST"]),
    Route("/v1/events", append_events, methods=["POST"]),
    Route("/v1/items", items, methods=["GET", "POST"]),
    Route("/v1/users/{user:path}/history", show_history, methods=["GET"]),
    Route("/v1/users/{user:path}", erase_user, methods=["DELETE"]),
    Route("/v1/models", models, methods=["GET", "POST"]),
    Route("/v1/settings", show_settings, methods=["GET"]),
    Route("/v1/status", show_status, methods=["GET"]),
    Route("/v1/status/sample", show_sample, methods=["GET"]),
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
    Route("/metrics", show_metrics, methods=["GET"]),
    Route("/openapi.json", openapi, methods=["GET"]),
    *PAGE_ROUTES,
    *OIP_ROUTES,
)


def create_app(
    ranker: ServedRanker,
    settings: ServerSettings | None = None,
    clock: Callable[[], int] = now_ms,
    monotonic_s: Callable[[], float] = time.monotonic,
    engines: Engines | None = None,
    storage: Path | None = None,
) -> Starlette:
    """The application over a loaded ranker, for uvicorn or for mounting in somebody's own service.

    Its lifespan warms the ranker (``/health/ready`` says when) and, at the end, finishes what was admitted. The ranker
    stays open: it is the caller's. ``monotonic_s`` times quotas and the reading of token files; ``engines``
    run the requests, by default in this process; ``storage``: the folder that the event log lies in, if any.
    Raises TokensError where a token file cannot be used, TracingError where traces are wanted without OpenTelemetry.
    """
    settings = settings or ServerSettings()
    access, tokens = settings.access, Tokens(settings.access, monotonic_s)
    service = Service(ranker, settings, clock, engines, storage)
    tracing = Tracing() if settings.telemetry.tracing else None
    service.watchers += [] if tracing is None else [tracing]
    quotas = Quotas(access.quotas, monotonic_s, service.metrics.registry)
    path_of = {route.endpoint: route.path.replace(":path", "") for route in ROUTES}
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(
                Conversation,
                metrics=service.metrics,
                path_of=path_of,
                access_log=settings.telemetry.access_log,
                tracing=tracing,
            ),
            Middleware(Access, settings=access, tokens=tokens, quotas=quotas, registry=service.metrics.registry),
        ],
        exception_handlers=HANDLERS,
        lifespan=_lifespan,
    )
    app.state.service, app.state.quotas, app.state.tokens = service, quotas, tokens
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    service: Service = app.state.service
    living = asyncio.create_task(service.run())
    try:
        yield
    finally:
        await asyncio.to_thread(service.close)
        await living

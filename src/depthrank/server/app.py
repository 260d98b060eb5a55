"""The ASGI application: routes, the one middleware, and the life of the service behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from depthrank.events.log import now_ms
from depthrank.server.conversation import Conversation
from depthrank.server.error_answers import HANDLERS
from depthrank.server.events_endpoint import append_events
from depthrank.server.items_endpoint import show_items, upsert_items
from depthrank.server.openapi import openapi_document
from depthrank.server.page_endpoint import page
from depthrank.server.rank_endpoint import rank
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.service import Service
from depthrank.server.settings import ServerSettings
from depthrank.server.status_endpoints import live, ready, show_metrics, show_models
from depthrank.server.users_endpoint import erase_user, show_history


async def openapi(_http: HttpRequest) -> Response:
    """The OpenAPI description."""
    return Response(openapi_document(), media_type="application/json")


async def items(http: HttpRequest) -> Response:
    """Both verbs of /v1/items."""
    return await (upsert_items(http) if http.method == "POST" else show_items(http))


ROUTES = (
    Route("/v1/rank", rank, methods=["POST"]),
    Route("/v1/events", append_events, methods=["POST"]),
    Route("/v1/items", items, methods=["GET", "POST"]),
    Route("/v1/users/{user:path}/history", show_history, methods=["GET"]),
    Route("/v1/users/{user:path}", erase_user, methods=["DELETE"]),
    Route("/v1/models", show_models, methods=["GET"]),
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
    Route("/metrics", show_metrics, methods=["GET"]),
    Route("/openapi.json", openapi, methods=["GET"]),
    Route("/", page, methods=["GET"]),
)


def create_app(
    ranker: ServedRanker, settings: ServerSettings | None = None, clock: Callable[[], int] = now_ms
) -> Starlette:
    """The application over a loaded ranker, for uvicorn or for mounting in somebody's own service.

    Its lifespan warms the ranker (``/health/ready`` says when) and, at the end, finishes what was admitted. The ranker
    stays open: it is the caller's.
    """
    service = Service(ranker, settings or ServerSettings(), clock)
    path_of = {route.endpoint: route.path.replace(":path", "") for route in ROUTES}
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Conversation, metrics=service.metrics, path_of=path_of)],
        exception_handlers=HANDLERS,
        lifespan=_lifespan,
    )
    app.state.service = service
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    service: Service = app.state.service
    warming = asyncio.create_task(service.warm())
    try:
        yield
    finally:
        await asyncio.to_thread(service.close)
        await warming

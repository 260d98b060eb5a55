"""GET /v1/status: what is going on now. GET /v1/status/sample: users and items to try a server with."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.catalogue import Catalogue
from depthrank.server.access.client import client_of
from depthrank.server.answers import Sample, json_answer
from depthrank.server.models.view import models_view
from depthrank.server.queries import check_query_names, integer_parameter
from depthrank.server.service import Service

MOST_USERS = 10_000
MOST_ITEMS = 50_000
CACHE = ("warm", "extended", "cold")


async def show_status(http: HttpRequest) -> Response:
    """Live figures; user ids only for an admin."""
    service: Service = http.app.state.service
    check_query_names(http, (), service.settings.limits)
    body = status_of(service, show_users=client_of(http).may("admin"))
    return Response(msgspec.json.encode(body), media_type="application/json", headers={"Cache-Control": "no-store"})


def status_of(service: Service, *, show_users: bool) -> dict[str, Any]:
    """What the page shows."""
    measured = service.ranker.measures()
    found = {how: measured.get(f"user_states_{how}", 0.0) for how in CACHE}
    return {
        "phase": service.phase.value,
        "trouble": service.trouble,
        **service.status.plain(service.ranker.economy(), show_users),
        "load": service.dispatcher.status(),
        "cache": {
            **found,
            "bytes": measured.get("user_state_bytes", 0.0),
            "users": measured.get("user_states_held", 0.0),
        },
        "models": [
            _model(view) for view in models_view(service.models, service.phase.value, service.outcomes.shadow).models
        ],
        "deltas": None if service.deltas is None else service.deltas.plain(),
        "drift": service.outcomes.drift.plain(),
    }


def _model(view: Any) -> dict[str, Any]:
    return {
        "model": view.model,
        "labels": view.labels,
        "share": view.share,
        "counts": view.counts,
        "status": view.status,
    }


async def show_sample(http: HttpRequest) -> Response:
    """At most ``?users=`` and ``?items=``, for a load test; needs the scope admin, as users are personal."""
    service: Service = http.app.state.service
    limits = service.settings.limits
    check_query_names(http, ("users", "items"), limits)
    users = integer_parameter(http, "users", 1_000, 0, MOST_USERS, limits)
    items = integer_parameter(http, "items", 1_000, 0, MOST_ITEMS, limits)
    named = await service.in_log_pool(service.ranker.some_users, users)
    return json_answer(Sample(named, some_items(service.ranker.generation.items, items)))


def some_items(catalogue: Catalogue, number: int) -> list[str]:
    """At most ``number`` items, evenly spread over the catalogue; row 0 is no item."""
    num_items = catalogue.size - 1
    if not num_items or not number:
        return []
    rows = 1 + np.unique(np.linspace(0, num_items - 1, min(number, num_items)).astype(np.int64))
    return catalogue.ids_of(rows)

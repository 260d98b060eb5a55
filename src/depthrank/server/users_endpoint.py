"""GET /v1/users/{user}/history and DELETE /v1/users/{user}."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.server.answers import HistoryEvent, HistoryView, json_answer
from depthrank.server.queries import check_query_names, integer_parameter, user_in_path
from depthrank.server.service import Service

DEFAULT_LIMIT = 100


async def show_history(http: HttpRequest) -> Response:
    """A user's last ``?limit=`` events, newest first, all or those of ``?actions=a,b``; an unknown user has none."""
    service: Service = http.app.state.service
    settings = service.settings
    user = user_in_path(http, segments_after=1)
    check_query_names(http, ("limit", "actions"), settings.limits)
    limit = integer_parameter(http, "limit", DEFAULT_LIMIT, 1, settings.max_history, settings.limits)
    actions = http.query_params.get("actions")
    events = await service.in_log_pool(_history, service, user, limit, actions and actions.split(","))
    return json_answer(HistoryView(user, events))


def _history(service: Service, user: str, limit: int, actions: list[str] | None) -> list[HistoryEvent]:
    read = limit if actions is None else service.settings.max_history
    events = service.ranker.history(user, read)
    kept = [e for e in events if actions is None or e["action"] in actions]
    return [HistoryEvent(e["item"], e["action"], e["time_ms"]) for e in kept[:limit]]


async def erase_user(http: HttpRequest) -> Response:
    """Remove a user from the log's files, its backups and the decision records; answers when that is done, with what is
    still ``pending``."""
    service: Service = http.app.state.service
    user = user_in_path(http)
    return json_answer(await service.in_log_pool(service.outcomes.erase, user))

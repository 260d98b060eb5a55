"""GET and POST /v1/models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.errors import ArtifactError, FieldProblem
from depthrank.schema.wire import decode_json
from depthrank.server.answers import json_answer
from depthrank.server.bodies import read_body
from depthrank.server.error_answers import error_answer, request_id_of
from depthrank.server.models.action import ModelAction, read_action
from depthrank.server.models.folders import DELTA_MARKER, allowed_artifact
from depthrank.server.models.give_way import GiveWay
from depthrank.server.models.versions import ModelConflictError, Models
from depthrank.server.models.view import models_view
from depthrank.server.service import Service


async def show_models(http: HttpRequest) -> Response:
    """The loaded versions and what is known of them."""
    service: Service = http.app.state.service
    return json_answer(
        await service.in_log_pool(models_view, service.models, service.phase.value, service.outcomes.shadow)
    )


async def change_models(http: HttpRequest) -> Response:
    """Load, label, unload, promote or roll back; answers with the versions when it is done."""
    service: Service = http.app.state.service
    models, settings = service.models, service.settings.models
    if not (settings.manage or _is_admin(http)):
        message = "models are not managed over HTTP here: start the server with models.manage, or with an admin token"
        return error_answer(request_id_of(http), 403, "not_managed", message)
    body = await read_body(http, service.settings)
    action = read_action(decode_json(body, service.settings.limits))
    try:
        await _run(models, action, GiveWay(service.is_busy, settings.load_nice, service.has_waiting))
    except ModelConflictError as error:
        return error_answer(request_id_of(http), 409, "model_conflict", str(error))
    except ArtifactError as error:
        problem = [FieldProblem("$.path", repr((action.path or "")[:200]), "a whole artifact", str(error)[:500])]
        return error_answer(request_id_of(http), 422, "wrong_fields", "the model cannot be loaded:", problem)
    return await show_models(http)


def _is_admin(http: HttpRequest) -> bool:
    """Whether a token with the scope ``admin`` was asked for and given; an open door proves nothing."""
    client = getattr(http.state, "client", None)
    return str(getattr(client, "name", "")).startswith("token:") and "admin" in getattr(client, "scopes", ())


async def _run(models: Models, action: ModelAction, give_way: GiveWay) -> None:
    match action.action:
        case "load":
            path = allowed_artifact(action.path or "", models.folders)
            await _aside(lambda: models.load(path, action.label, action.share, give_way.run), give_way)
        case "label":
            assert action.model is not None and action.label is not None
            models.label(action.model, action.label, action.share)
        case "unload":
            models.unload(action.model or "")
        case "delta":
            path = allowed_artifact(action.path or "", models.folders, DELTA_MARKER)
            await _aside(lambda: models.apply_delta(path, action.model), give_way)
        case "promote":
            models.promote()
        case "rollback":
            models.roll_back()


async def _aside(call: Callable[[], object], give_way: GiveWay) -> None:
    """Run a long call in a nice thread of its own."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def work() -> None:
        give_way.be_nice()
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised again where the call is awaited
            loop.call_soon_threadsafe(_settle, done, error)
        else:
            loop.call_soon_threadsafe(_settle, done, None)

    threading.Thread(target=work, name="depthrank-load", daemon=True).start()
    await asyncio.shield(done)


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)

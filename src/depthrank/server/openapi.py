"""The OpenAPI 3.1 description: every endpoint with every status it may answer."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import msgspec

from depthrank.server.access.scopes import need_of
from depthrank.server.bodies import ARROW, MSGPACK
from depthrank.server.openapi_schemas import BINARY, REF, Json, events, schemas, upsert

ERRORS = {
    400: "The body is not JSON (or what its type says), or nests too deep",
    401: "A token is needed, or is not known",
    403: "The token may not do this, or a website sent it",
    404: "There is nothing here",
    408: "The body did not arrive in time",
    409: "It does not fit what is loaded",
    413: "The body, or a list in it, is too large",
    415: "The body is compressed",
    422: "A field is wrong; problems lists each with its path",
    429: "The client has used up its quota; Retry-After says when it has some again",
    500: "The server failed; its log has the reason under the request id",
    503: "No room, or not available now; Retry-After says when to ask again",
    504: "The deadline passed before anything was scored",
    507: "The disk is full; nothing was acknowledged",
}
ANY = (400, 403, 500)  # of every endpoint: no HTTP, a name that is not ours, a failure
BODY = (400, 408, 413, 415, 422, 503)


def openapi_document() -> bytes:
    """The description as JSON."""
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "depthrank",
            "version": version("depthrank"),
            "description": "Rank thousands of candidates for a user. Ids are strings or integers and compare as "
            "strings; times are milliseconds since 1970.",
        },
        "paths": {path: _with_needs(path, methods) for path, methods in (_paths() | _oip_paths()).items()},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Where tokens are used"}},
        },
    }
    return msgspec.json.encode(document)


def _paths() -> Json:
    return {
        "/v1/rank": {
            "post": _operation(
                "rank",
                "Rank candidates",
                _json("Answer") | {MSGPACK: _json("Answer")["application/json"]},
                (*BODY, 504),
                body=_json("Request") | {MSGPACK: _json("Request")["application/json"], ARROW: {"schema": BINARY}},
            )
        },
        "/v1/rerank": {
            "post": _operation(
                "rerank",
                "Rank documents (items) for a query (a user), in the shape of rerankers",
                _json("Reranked"),
                (*BODY, 504),
                body=_json("RerankRequest"),
            )
        },
        "/v1/events": {
            "post": _operation(
                "append_events",
                "Append one event, or columns of many",
                _json("Appended"),
                (*BODY, 507),
                body=_schema(events()),
            )
        },
        "/v1/items": {
            "post": _operation(
                "upsert_items", "Insert or change items", _json("Upsert"), (*BODY, 507), body=_schema(upsert())
            ),
            "get": _operation(
                "show_items",
                "Columns of some items",
                _json("ItemViews"),
                (413, 422),
                parameters=[_query("ids", "Item ids, separated by commas"), _query("id", "One item id", many=True)],
            ),
        },
        "/v1/users/{user}/history": {
            "get": _operation(
                "show_history",
                "A user's last events, newest first",
                _json("HistoryView"),
                (404, 422, 503),
                parameters=[
                    _in_path("user"),
                    _LIMIT,
                    _query("actions", "Only events of these actions, separated by commas"),
                ],
            )
        },
        "/v1/users/{user}": {
            "delete": _operation(
                "erase_user", "Erase a user", _json("Erased"), (404, 422, 503, 507), parameters=[_in_path("user")]
            )
        },
        "/v1/models": {
            "get": _operation("show_models", "The loaded versions", _json("Models"), (503,)),
            "post": _operation(
                "change_models",
                "Load, label, unload, promote or roll back",
                _json("Models"),
                (*BODY, 409),
                body=_json("ModelAction"),
            ),
        },
        "/v1/settings": {
            "get": _operation("show_settings", "What it runs with, secrets hidden", _json("SettingsView"))
        },
        "/v1/status": {"get": _operation("show_status", "Live figures, as the page shows them", _object(), (422, 503))},
        "/v1/status/sample": {
            "get": _operation(
                "show_sample",
                "Users and items to try the server with",
                _json("Sample"),
                (422, 503),
                parameters=[_number("users", 0, 10_000), _number("items", 0, 50_000)],
            )
        },
        "/health/live": {"get": _operation("live", "Whether the process answers", _json("Health"))},
        "/health/ready": {"get": _operation("ready", "Whether it should get traffic", _json("Health"), (503,))},
        "/metrics": {"get": _operation("show_metrics", "Prometheus metrics", _text("text/plain"))},
        "/openapi.json": {"get": _operation("openapi", "This document", _object())},
        "/": {"get": _operation("page", "A page to watch and try it", _text("text/html"))},
        "/page/plotly.min.js": {"get": _operation("page_charts", "The page's charts", _scripts())},
        "/page/{name}": {
            "get": _operation(
                "page_file",
                "A part of the page",
                _text("text/css") | _scripts(),
                (404,),
                parameters=[_in_path("name")],
            )
        },
    }


def _oip_paths() -> Json:
    """The Open Inference Protocol v2."""
    ready = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    paths: Json = {
        "/v2": {"get": _oip("v2_server", "What serves here", _object())},
        "/v2/health/live": {"get": _oip("v2_live", "Whether the process answers", _object())},
        "/v2/health/ready": {"get": _oip("v2_ready", "Whether it should get traffic", _schema(ready), (503,))},
    }
    model = _in_path("model")
    forms = {"": [model], "/versions/{version}": [model, _in_path("version")]}
    for form, parameters in forms.items():
        path, name = "/v2/models/{model}" + form, "v2_version" if form else "v2_model"
        metadata, infers = _json("ModelMetadata"), _json("InferenceAnswer") | {_OCTETS: {"schema": BINARY}}
        body = _json("InferenceRequest") | {_OCTETS: {"schema": BINARY}}
        length = {"name": "Inference-Header-Content-Length", "in": "header", "required": False,
                  "description": "Bytes of the JSON, where tensors follow it as bytes",
                  "schema": {"type": "integer", "minimum": 0}}  # fmt: skip
        paths |= {
            path: {"get": _oip(name, "The model's inputs and outputs", metadata, (404,), parameters)},
            path + "/ready": {"get": _oip(name + "_ready", "Whether it answers", _object(), (404, 503), parameters)},
            path + "/infer": {
                "post": _oip(name + "_infer", "Rank", infers, (404, *BODY, 504), [*parameters, length], body)
            },
        }
    return paths


_OCTETS = "application/octet-stream"


def _oip(
    name: str, summary: str, content: Json, errors: Iterable[int] = (), parameters: Any = (), body: Json | None = None
) -> Json:
    return _operation(name, summary, content, errors, body, parameters, error="OipError")


def _operation(
    name: str,
    summary: str,
    content: Json,
    errors: Iterable[int] = (),
    body: Json | None = None,
    parameters: Any = (),
    error: str = "ErrorAnswer",
) -> Json:
    responses: Json = {"200": {"description": "Done", "content": content}}
    for status in sorted({*errors, *ANY}):
        responses[str(status)] = {"description": ERRORS[status], "content": _json(error)}
    operation: Json = {"operationId": name, "summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    if parameters:
        operation["parameters"] = list(parameters)
    return operation


def _with_needs(path: str, methods: Json) -> Json:
    """The scope that each operation needs, and what is answered to who has not got it."""
    for method, operation in methods.items():
        need = need_of(method.upper(), path)
        if need == "open":
            continue
        content = next(r["content"] for status, r in operation["responses"].items() if status != "200")
        for status in (401, 429):
            operation["responses"][str(status)] = {"description": ERRORS[status], "content": content}
        operation["security"] = [{"token": []}, {}]
        scope = {"token": "any token", "metrics": "what access.metrics says"}.get(need, f"the scope {need}")
        operation["description"] = f"Where tokens are used, this needs {scope}."
    return methods


def _json(name: str) -> Json:
    return _schema({"$ref": REF.format(name=name)})


def _schema(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _object() -> Json:
    return _schema({"type": "object"})


def _scripts() -> Json:
    return _text("text/javascript")


def _text(media_type: str) -> Json:
    return {media_type: {"schema": {"type": "string"}}}


def _query(name: str, description: str, many: bool = False) -> Json:
    text: Json = {"type": "string"}
    schema = {"type": "array", "items": text} if many else text
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _number(name: str, low: int, high: int) -> Json:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return {"name": name, "in": "query", "required": False, "description": f"How many {name} at most", "schema": schema}


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


_LIMIT: Json = {
    "name": "limit",
    "in": "query",
    "required": False,
    "description": "How many events at most",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
}

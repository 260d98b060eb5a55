"""The OpenAPI 3.1 description, made from the structs that the endpoints decode and encode."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import msgspec

from depthrank.schema import Answer, EventIn, Limits, Request
from depthrank.server import answers
from depthrank.server.error_answers import ErrorAnswer

Json = dict[str, Any]
REF = "#/components/schemas/{name}"
ERRORS = {
    400: "The body is not JSON, or nests too deep",
    404: "There is nothing here",
    408: "The body did not arrive in time",
    413: "The body, or a list in it, is too large",
    415: "The body is compressed",
    422: "A field is wrong; problems lists each with its path",
    500: "The server failed; its log has the reason under the request id",
    503: "No room, or not available now; Retry-After says when to ask again",
    504: "The deadline passed before anything was scored",
    507: "The disk is full; nothing was acknowledged",
}
BODY_ERRORS = (400, 408, 413, 415, 422, 500, 503)
NAME: Json = {"type": "string", "minLength": 1}
ID: Json = {"anyOf": [NAME, {"type": "integer"}]}
TIME: Json = {"type": "integer", "minimum": 0, "maximum": 100_000_000_000_000, "description": "Milliseconds since 1970"}
SCALAR: Json = {"type": ["string", "number", "boolean", "null"]}
VALUE: Json = {"anyOf": [SCALAR, {"type": "array", "items": SCALAR}]}
CANDIDATES: Json = {
    "anyOf": [
        {"type": "array", "items": ID},
        {
            "type": "object",
            "description": "Equally long columns",
            "properties": {"item": {"type": "array", "items": ID}},
            "required": ["item"],
            "additionalProperties": {"type": "array", "items": VALUE},
        },
        {"const": "all"},
    ]
}


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
        "paths": _paths(),
        "components": {"schemas": _schemas()},
    }
    return msgspec.json.encode(document)


def _paths() -> Json:
    return {
        "/v1/rank": {
            "post": _operation("rank", "Rank candidates", _json("Answer"), (*BODY_ERRORS, 504), body=_json("Request"))
        },
        "/v1/events": {
            "post": _operation(
                "append_events",
                "Append one event, or columns of many",
                _json("Appended"),
                (*BODY_ERRORS, 507),
                _events(),
            )
        },
        "/v1/items": {
            "post": _operation("upsert_items", "Insert or change items", _json("Upsert"), BODY_ERRORS, _upsert()),
            "get": _operation(
                "show_items",
                "Columns of some items",
                _json("ItemViews"),
                (413, 422, 500),
                parameters=[_query("ids", "Item ids, separated by commas"), _query("id", "One item id", many=True)],
            ),
        },
        "/v1/users/{user}/history": {
            "get": _operation(
                "show_history",
                "A user's last events, newest first",
                _json("HistoryView"),
                (404, 422, 500, 503),
                parameters=[_USER, _LIMIT, _query("actions", "Only events of these actions, separated by commas")],
            )
        },
        "/v1/users/{user}": {
            "delete": _operation(
                "erase_user", "Erase a user", _json("Erased"), (404, 500, 503, 507), parameters=[_USER]
            )
        },
        "/v1/models": {"get": _operation("show_models", "The loaded model", _json("Models"), (500, 503))},
        "/health/live": {"get": _operation("live", "Whether the process answers", _json("Health"), ())},
        "/health/ready": {"get": _operation("ready", "Whether it should get traffic", _json("Health"), (503,))},
        "/metrics": {"get": _operation("show_metrics", "Prometheus metrics", _text("text/plain"), ())},
        "/openapi.json": {"get": _operation("openapi", "This document", _object(), ())},
        "/": {"get": _operation("page", "A page to try it", _text("text/html"), ())},
    }


def _schemas() -> Json:
    structs = (Request, Answer, EventIn, ErrorAnswer)
    views = (v for v in vars(answers).values() if isinstance(v, type) and issubclass(v, msgspec.Struct))
    own = [v for v in views if v is not msgspec.Struct]
    _, schemas = msgspec.json.schema_components([*structs, *own], ref_template=REF)
    schemas["Request"]["properties"] |= {
        "user": ID,
        "candidates": CANDIDATES,
        "context": {"type": ["object", "null"], "additionalProperties": VALUE, "default": {}},
        "top": {"type": "integer", "minimum": 1, "maximum": Limits().max_top, "default": 10},
        "time_ms": _optional(TIME),
        "deadline_ms": _optional({"type": "number", "exclusiveMinimum": 0}),
        "budget": _optional({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    }
    schemas["EventIn"]["properties"] |= {
        "user": ID,
        "item": ID,
        "action": NAME,
        "time_ms": _optional(TIME),
        "event_id": _optional(ID),
        "request_id": _optional(ID),
        "position": _optional({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}),
    }
    return dict(schemas)


def _operation(
    name: str, summary: str, content: Json, errors: Iterable[int], body: Json | None = None, parameters: Any = ()
) -> Json:
    responses: Json = {"200": {"description": "Done", "content": content}}
    for status in errors:
        responses[str(status)] = {"description": ERRORS[status], "content": _json("ErrorAnswer")}
    operation: Json = {"operationId": name, "summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    if parameters:
        operation["parameters"] = list(parameters)
    return operation


def _json(name: str) -> Json:
    return {"application/json": {"schema": {"$ref": REF.format(name=name)}}}


def _object(**more: Any) -> Json:
    return {"application/json": {"schema": {"type": "object", **more}}}


def _text(media_type: str) -> Json:
    return {media_type: {"schema": {"type": "string"}}}


def _optional(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}], "default": None}


def _events() -> Json:
    """One event, or an object of equally long columns."""
    columns = {
        "type": "object",
        "description": "Columns: one value an event; a single value stands for every row (not for event_id)",
        "properties": {"item": {"type": "array", "items": ID}, "user": _one_or_many(ID), "action": _one_or_many(NAME)},
        "required": ["user", "item", "action"],
    }
    return {"application/json": {"schema": {"anyOf": [{"$ref": REF.format(name="EventIn")}, columns]}}}


def _one_or_many(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


def _upsert() -> Json:
    return _object(
        description="Columns of the catalogue, one value an item; or one item",
        properties={"item": _one_or_many(ID)},
        required=["item"],
        additionalProperties={"anyOf": [VALUE, {"type": "array", "items": VALUE}]},
    )


def _query(name: str, description: str, many: bool = False) -> Json:
    text: Json = {"type": "string"}
    schema = {"type": "array", "items": text} if many else text
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_USER: Json = {"name": "user", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_LIMIT: Json = {
    "name": "limit",
    "in": "query",
    "required": False,
    "description": "How many events at most",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
}

"""Schemas of the OpenAPI description, made from the structs that the endpoints decode and encode.

What a struct does not say (ids are texts or integers, columns are equally long) is added by hand.
"""

from __future__ import annotations

from typing import Any

import msgspec

from depthrank.schema import Answer, EventIn, Limits, Request
from depthrank.server import answers
from depthrank.server.error_answers import ErrorAnswer
from depthrank.server.models.action import ModelAction
from depthrank.server.protocols.oip_tensors import BYTES, DTYPES
from depthrank.server.protocols.rerank import Reranked

Json = dict[str, Any]
REF = "#/components/schemas/{name}"
INT64: Json = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
NAME: Json = {"type": "string", "minLength": 1}
ID: Json = {"anyOf": [NAME, {"type": "integer"}]}
TIME: Json = {"type": "integer", "minimum": 0, "maximum": 100_000_000_000_000, "description": "Milliseconds since 1970"}
SCALAR: Json = {"anyOf": [{"type": ["string", "number", "boolean", "null"]}]}
VALUE: Json = {"anyOf": [*SCALAR["anyOf"], {"type": "array", "items": SCALAR}]}
TOP: Json = {"type": "integer", "minimum": 1, "maximum": Limits().max_top}
BINARY: Json = {"type": "string", "format": "binary"}
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


def schemas() -> Json:
    """Every named schema."""
    structs = (Request, Answer, EventIn, ErrorAnswer, ModelAction, Reranked)
    views = (v for v in vars(answers).values() if isinstance(v, type) and issubclass(v, msgspec.Struct))
    own = [v for v in views if v is not msgspec.Struct]
    _, found = msgspec.json.schema_components([*structs, *own], ref_template=REF)
    for hidden in ("record", "spent"):  # never on the wire
        found["Answer"]["properties"].pop(hidden, None)
    found.pop("Spent", None)
    found["Request"]["properties"] |= {
        "user": ID,
        "candidates": CANDIDATES,
        "context": _context(),
        "top": TOP | {"default": 10},
        "time_ms": optional(TIME),
        "deadline_ms": optional({"type": "number", "exclusiveMinimum": 0}),
        "budget": optional({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    }
    found["EventIn"]["properties"] |= {
        "user": ID,
        "item": ID,
        "action": NAME,
        "time_ms": optional(TIME),
        "event_id": optional(ID),
        "request_id": optional(ID),
        "position": optional({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}),
    }
    return dict(found) | {"RerankRequest": _rerank(), **_inference()}


def optional(schema: Json) -> Json:
    """A field that may be null, and is by default."""
    return {"anyOf": [schema, {"type": "null"}], "default": None}


def one_or_many(schema: Json) -> Json:
    """A value, or a list with one a row."""
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


def events() -> Json:
    """One event, or an object of equally long columns."""
    columns = {
        "type": "object",
        "description": "Columns: one value an event; a single value stands for every row (not for event_id)",
        "properties": {"item": {"type": "array", "items": ID}, "user": one_or_many(ID), "action": one_or_many(NAME)},
        "required": ["user", "item", "action"],
    }
    return {"anyOf": [{"$ref": REF.format(name="EventIn")}, columns]}


def upsert() -> Json:
    """Columns of the catalogue, or one item."""
    return {
        "type": "object",
        "description": "Columns of the catalogue, one value an item; or one item",
        "properties": {"item": one_or_many(ID)},
        "required": ["item"],
        "additionalProperties": {"anyOf": [VALUE, {"type": "array", "items": VALUE}]},
    }


def _context() -> Json:
    return {"type": ["object", "null"], "additionalProperties": VALUE, "default": {}}


def _rerank() -> Json:
    query = {
        "type": "object",
        "properties": {
            "user": ID,
            "context": _context(),
            "time_ms": optional(TIME),
            "deadline_ms": optional({"type": "number", "exclusiveMinimum": 0}),
            "budget": optional({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
            "mode": {"enum": ["adaptive", "full", "router"]},
        },
        "required": ["user"],
        "additionalProperties": False,
    }
    document = {"type": "object", "properties": {"id": ID}, "required": ["id"], "additionalProperties": VALUE}
    return {
        "type": "object",
        "properties": {
            "model": {"type": ["string", "null"], "description": "The model's name or id"},
            "query": {"anyOf": [ID, query], "description": "The user"},
            "documents": {"type": "array", "items": {"anyOf": [ID, document]}, "description": "The candidates"},
            "top_n": optional(TOP),
            "return_documents": {"type": ["boolean", "null"], "default": False},
        },
        "required": ["query", "documents"],
    }


def _inference() -> Json:
    """Bodies of the Open Inference Protocol."""
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    tensor = {
        "type": "object",
        "properties": {
            "name": NAME,
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"enum": [*DTYPES, BYTES]},
            "parameters": parameters,
            "data": {"type": "array"},
        },
        "required": ["name", "shape", "datatype"],
    }
    described = {"type": "object", "required": ["name", "datatype", "shape"]}
    return {
        "OipError": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
        "Tensor": tensor,
        "InferenceRequest": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "parameters": parameters,
                "inputs": {"type": "array", "items": {"$ref": REF.format(name="Tensor")}},
                "outputs": {"type": "array", "items": {"type": "object", "properties": {"name": NAME}}},
            },
            "required": ["inputs"],
        },
        "InferenceAnswer": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": {"$ref": REF.format(name="Tensor")}},
            },
            "required": ["model_name", "outputs"],
        },
        "ModelMetadata": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "versions": {"type": "array", "items": {"type": "string"}},
                "platform": {"type": "string"},
                "inputs": {"type": "array", "items": described},
                "outputs": {"type": "array", "items": described},
            },
            "required": ["name", "platform", "inputs", "outputs"],
        },
    }

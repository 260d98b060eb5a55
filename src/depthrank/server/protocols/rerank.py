"""POST /v1/rerank: ranking in the shape that rerankers for search made common (Cohere, Jina and others).

``query`` is the user, ``documents`` are the candidates, ``index`` points into them. ``relevance_score`` is the value as
a share of what it could be: of the sum of the task weights, so it is the weighted mean of the task probabilities; or,
where the value is multiplied by a column such as a bid, of the answer's largest value. It never grows along the
results, so that sorting by it keeps the order (in which deeper levels come first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from depthrank.schema import Answer, Limits, Request, Spec
from depthrank.schema.wire import decode_json, read_request
from depthrank.schema.wire_fields import FieldChecks
from depthrank.schema.wire_json import check_length
from depthrank.server.answers import json_answer
from depthrank.server.bodies import charge_candidates, read_body
from depthrank.server.rank_endpoint import ranked, recording
from depthrank.server.service import Service

FIELDS = ("model", "query", "documents", "top_n", "return_documents")
# What rerankers that read texts take besides; here there are no texts.
IGNORED = ("max_tokens_per_doc", "max_chunks_per_doc", "rank_fields", "truncation", "return_embeddings", "priority")
OF_QUERY = ("user", "context", "time_ms", "deadline_ms", "budget", "mode")
A_DOCUMENT = "an item id, or an object with an id (or its text) and columns"


class Result(msgspec.Struct, omit_defaults=True):
    """One document by its place in ``documents``; ``document`` where ``return_documents`` asked for it."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class Meta(msgspec.Struct):
    """Which model answered, and whether the answer is less than was asked for."""

    model: str
    degraded: bool
    reasons: list[str]


class Reranked(msgspec.Struct):
    """The documents in order."""

    id: str
    results: list[Result]
    meta: Meta


async def rerank(http: HttpRequest) -> Response:
    """Rank documents (items) for a query (a user)."""
    service: Service = http.app.state.service
    body = await read_body(http, service.settings)
    plain, request = await service.decode(_decode, body, service)
    charge_candidates(http, request)
    answer = await ranked(http, request)
    documents = plain["documents"] if plain.get("return_documents") else None
    meta = Meta(answer.model, answer.degraded.is_, answer.degraded.reasons)
    response = json_answer(
        Reranked(answer.request_id, results_of(answer, request, service.ranker.spec, documents), meta)
    )
    response.background = recording(http, request, answer)
    return response


def _decode(body: bytes, service: Service) -> tuple[dict[str, Any], Request]:
    plain = decode_json(body, service.settings.limits)
    names = (service.ranker.spec.name, service.models.labels.stable.model)
    return plain, rerank_request(plain, names, service.settings.limits, wall_clock=service.wall_clock)


def rerank_request(plain: dict[str, Any], models: Sequence[str], limits: Limits, *, wall_clock: bool) -> Request:
    """The rank request that a rerank request means. Raises RequestError, TooLargeError."""
    checks = FieldChecks(limits)
    checks.names([name for name in plain if name not in IGNORED], FIELDS)
    model = plain.get("model")
    if model is not None and model not in models:
        checks.wrong("$.model", model, "one of " + ", ".join(models))
    returned = plain.get("return_documents")
    if returned is not None and type(returned) is not bool:
        checks.wrong("$.return_documents", returned, "true or false")
    asked = _of_query(plain.get("query"), checks)
    candidates = _candidates(plain.get("documents"), checks)
    top = plain.get("top_n")
    num_documents = len(candidates["item"])
    asked["top"] = max(1, num_documents) if top is None else checks.integer(top, "$.top_n", 1, limits.max_top)
    checks.raise_problems("the request has wrong fields:")
    if len(candidates) == 1:
        return read_request(asked | {"candidates": candidates["item"]}, limits, wall_clock=wall_clock)
    return read_request(asked | {"candidates": candidates}, limits, wall_clock=wall_clock)


def _of_query(query: Any, checks: FieldChecks) -> dict[str, Any]:
    if isinstance(query, dict):
        checks.names(query, OF_QUERY, "$.query")
        if "user" not in query:
            checks.missing("$.query.user", "a user's id", query)
        return dict(query)
    return {"user": checks.id(query, "$.query")}


def _candidates(documents: Any, checks: FieldChecks) -> dict[str, list[Any]]:
    """Columns of the documents: ids, and what else their objects hold; null where one does not hold it."""
    if not isinstance(documents, list):
        checks.wrong("$.documents", documents, f"a list; each {A_DOCUMENT}")
        return {"item": []}
    check_length(len(documents), checks.limits.max_candidates, "$.documents")
    objects = [document if isinstance(document, dict) else {"id": document} for document in documents]
    ids = [checks.id(o.get("id", o.get("text")), f"$.documents[{i}]") for i, o in enumerate(objects)]
    names = dict.fromkeys(name for o in objects for name in o if name not in ("id", "text"))
    if "item" in names:
        checks.wrong("$.documents", "a column named item", "the item's id under the name id")
    check_length(len(names) * len(objects), checks.limits.max_candidates * 64, "$.documents")
    return {"item": ids} | {name: [o.get(name) for o in objects] for name in names if name != "item"}


def results_of(answer: Answer, request: Request, spec: Spec, documents: list[Any] | None) -> list[Result]:
    """The ranked documents with their scores; ``documents`` are given back where they are given."""
    scores = relevance_of(answer, spec)
    results = []
    for place, score in zip(_places(answer, request), scores, strict=True):
        shown = None
        if documents is not None:
            given = documents[place]
            shown = given if isinstance(given, dict) else {"id": str(given)}
        results.append(Result(place, score, shown))
    return results


def relevance_of(answer: Answer, spec: Spec) -> list[float]:
    """Scores from 0 to 1, never growing."""
    if spec.value.times is None:
        whole = sum(spec.value.weights.get(task, 0.0) for task in spec.tasks)
    else:
        whole = max((item.value for item in answer.items if item.level >= 0), default=0.0)
    scores, last = [], 1.0
    for item in answer.items:
        share = item.value / whole if whole > 0 and item.level >= 0 and math.isfinite(item.value) else 0.0
        last = min(last, max(0.0, share))
        scores.append(last)
    return scores


def _places(answer: Answer, request: Request) -> list[int]:
    """Where each ranked item stands among the documents; a ranker that does not tell: the first of its id left."""
    if all(isinstance(item.index, int) for item in answer.items):
        return [int(item.index) for item in answer.items]  # type: ignore[arg-type]
    given = request.candidates
    ids = given["item"] if isinstance(given, dict) else given
    left: dict[str, list[int]] = {}
    for place in range(len(ids) - 1, -1, -1):
        left.setdefault(str(ids[place]), []).append(place)
    return [left[item.item].pop() for item in answer.items]

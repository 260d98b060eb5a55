"""Open Inference Protocol v2 over HTTP: ``tritonclient[http]`` ranks without any code of ours.

A model is served under the spec's name; a version is the end of the id in ``model``, such as ``323d8c4eaff8``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from depthrank.schema import Request
from depthrank.server.bodies import charge_candidates, read_body
from depthrank.server.error_answers import error_answer, request_id_of
from depthrank.server.protocols.oip_request import (
    described_inputs,
    described_outputs,
    rank_outputs,
    rank_request,
    wanted_outputs,
)
from depthrank.server.protocols.oip_tensors import read_tensors, write_tensors
from depthrank.server.rank_endpoint import ranked, recording
from depthrank.server.service import Phase, Service

HEADER_LENGTH = "Inference-Header-Content-Length"
Wanted = tuple[list[str], frozenset[str]]


async def server_metadata(_http: HttpRequest) -> Response:
    """What serves here, and its extensions."""
    return _json({"name": "depthrank", "version": version("depthrank"), "extensions": ["binary_tensor_data"]})


async def server_live(_http: HttpRequest) -> Response:
    """200 as long as the process answers."""
    return _json({"live": True})


async def server_ready(http: HttpRequest) -> Response:
    """200 when warm and not draining; 503 otherwise."""
    service: Service = http.app.state.service
    if service.phase is not Phase.READY:
        message = f"the server is {service.phase.value}"
        return error_answer(request_id_of(http), 503, "not_ready", message, headers={"Retry-After": "1"})
    return _json({"ready": True})


async def model_metadata(http: HttpRequest) -> Response:
    """Inputs and outputs of the model."""
    service = _checked(http)
    spec = service.ranker.spec
    told = {"name": spec.name, "versions": [stable_version(service)], "platform": "depthrank"}
    return _json(told | {"inputs": described_inputs(spec), "outputs": described_outputs(spec)})


async def model_ready(http: HttpRequest) -> Response:
    """200 when the model answers; 404 for another one."""
    _checked(http)
    return await server_ready(http)


async def infer(http: HttpRequest) -> Response:
    """Rank candidates that come as tensors."""
    service = _checked(http)
    body = await read_body(http, service.settings)
    header_length = http.headers.get(HEADER_LENGTH)
    header, request, (wanted, binary) = await service.decode(_decode, body, header_length, service)
    charge_candidates(http, request)
    answer = await ranked(http, request)
    told: dict[str, Any] = {"model_name": service.ranker.spec.name, "model_version": version_of(answer.model)}
    if isinstance(header.get("id"), str):
        told["id"] = header["id"]
    told["parameters"] = {"request_id": answer.request_id, "degraded": answer.degraded.is_}
    if answer.degraded.reasons:
        told["parameters"]["reasons"] = "; ".join(answer.degraded.reasons)
    content, length = write_tensors(told, rank_outputs(answer, service.ranker.spec, wanted), binary)
    response = Response(content, media_type="application/octet-stream" if binary else "application/json")
    if binary:
        response.headers[HEADER_LENGTH] = str(length)
    response.background = recording(http, request, answer)
    return response


def _decode(body: bytes, header_length: str | None, service: Service) -> tuple[dict[str, Any], Request, Wanted]:
    limits = service.settings.limits
    header, inputs = read_tensors(body, header_length, limits)
    request = rank_request(header, inputs, limits, wall_clock=service.wall_clock)
    return header, request, wanted_outputs(header, service.ranker.spec)


def stable_version(service: Service) -> str:
    """The version that answers (beside a canary)."""
    return version_of(service.models.labels.stable.model)


def version_of(model_id: str) -> str:
    """The part of a model's id that tells versions apart."""
    return model_id.rpartition("-")[2]


def _checked(http: HttpRequest) -> Service:
    """The service, when it serves the model in the path. Raises HTTPException (404)."""
    service: Service = http.app.state.service
    name, given = http.path_params["model"], http.path_params.get("version")
    if name != service.ranker.spec.name:
        raise HTTPException(404, f"there is no model {name[:80]!r} here; there is {service.ranker.spec.name!r}")
    if given is not None and given != stable_version(service):
        raise HTTPException(404, f"version {given[:80]!r} does not answer here; {stable_version(service)!r} does")
    return service


def _json(told: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(told), media_type="application/json")


_MODEL = "/v2/models/{model:path}"
_VERSION = _MODEL + "/versions/{version}"
OIP_ROUTES = (
    Route("/v2", server_metadata, methods=["GET"]),
    Route("/v2/health/live", server_live, methods=["GET"]),
    Route("/v2/health/ready", server_ready, methods=["GET"]),
    Route(_VERSION + "/infer", infer, methods=["POST"]),
    Route(_VERSION + "/ready", model_ready, methods=["GET"]),
    Route(_VERSION, model_metadata, methods=["GET"]),
    Route(_MODEL + "/infer", infer, methods=["POST"]),
    Route(_MODEL + "/ready", model_ready, methods=["GET"]),
    Route(_MODEL, model_metadata, methods=["GET"]),
)

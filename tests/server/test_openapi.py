"""The OpenAPI description agrees with the routes and with itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live_server import Live

from depthrank.server.app import ROUTES


@pytest.fixture(scope="module")
def document(live: Live) -> dict[str, Any]:
    response = live.client.get("/openapi.json")
    assert response.headers["Content-Type"] == "application/json"
    plain: dict[str, Any] = response.json()
    return plain


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (v for k, v in node.items() if k == "$ref")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(child)


def test_it_is_of_version_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"].keys() >= {"title", "version"}


def test_it_describes_every_route_and_nothing_else(document: dict[str, Any]) -> None:
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in ROUTES
        for method in (route.methods or ()) - {"HEAD"}
    }
    assert routes == {(path, method) for path, method, _ in operations(document)}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert len(found) > 10
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_operations_have_distinct_names_and_every_path_parameter_is_declared(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, _, operation in operations(document):
        declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert declared == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert "200" in operation["responses"]
        assert all(response["description"] for response in operation["responses"].values())


def test_the_request_is_described_as_it_is_decoded(document: dict[str, Any]) -> None:
    request = document["components"]["schemas"]["Request"]
    assert request["required"] == ["user", "candidates"]
    assert request["additionalProperties"] is False
    assert {"const": "all"} in request["properties"]["candidates"]["anyOf"]

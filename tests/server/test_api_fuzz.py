"""schemathesis over the whole description: whatever is sent, no 500, no status and no shape that is not described.

``benchmarks/fuzz_api.py`` runs the same for as long as one likes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import schemathesis
from api_fuzz import CHECKS
from hypothesis import HealthCheck, settings
from live_server import Live, live_server

from depthrank.server.openapi import openapi_document

REFUSALS = ("400", "404", "413", "422")


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Live]:
    with live_server() as live:
        yield live


schema = schemathesis.openapi.from_dict(json.loads(openapi_document()))


@schema.parametrize()
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_endpoint_answers_as_it_is_described(case: schemathesis.Case, fuzzed: Live) -> None:
    case.call_and_validate(base_url=fuzzed.address, checks=CHECKS)


def test_the_fuzz_reached_what_is_behind_the_checks_of_fields(fuzzed: Live) -> None:
    def answered(endpoint: str, method: str, status: str) -> float:
        return fuzzed.metric("depthrank_requests_total", endpoint=endpoint, method=method, status=status)

    for endpoint in ("/v1/rank", "/v1/events"):
        assert answered(endpoint, "POST", "200") > 0
        assert sum(answered(endpoint, "POST", status) for status in REFUSALS) > 0


def test_a_status_that_is_not_described_is_seen(fuzzed: Live) -> None:
    document = json.loads(openapi_document())
    document["paths"]["/health/live"]["get"]["responses"].pop("200")
    case = schemathesis.openapi.from_dict(document)["/health/live"]["GET"].Case()
    with pytest.raises(BaseException, match=r"[Ss]tatus code"):
        case.call_and_validate(base_url=fuzzed.address, checks=CHECKS)

"""What must hold of every answer, and how binary bodies are sent; shared with benchmarks/fuzz_api.py."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)


@schemathesis.serializer("application/msgpack")
def msgpack_body(_context: Any, value: Any) -> bytes:
    """A generated value as MessagePack; integers beyond 64 bits as text."""
    return msgspec.msgpack.encode(value, enc_hook=str) if _fits(value) else msgspec.msgpack.encode(str(value))


@schemathesis.serializer("application/vnd.apache.arrow.stream")
def arrow_body(_context: Any, value: Any) -> bytes:
    """Bytes as they were generated; tests/schema/test_wire_binary.py damages real streams."""
    return value if isinstance(value, bytes) else msgspec.json.encode(str(value))


def _fits(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_fits, value.values()))
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def no_failure_inside(_context: CheckContext, response: schemathesis.Response, _case: schemathesis.Case) -> None:
    """503, 504 and 507 are described and say what to do; 500 is our failure."""
    if response.status_code == 500:
        raise AssertionError(f"500: {response.text}")


CHECKS = [
    no_failure_inside,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]

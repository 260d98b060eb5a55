"""What crosses the wire: bodies in, answers out. Importable without a server."""

from __future__ import annotations

import msgspec

from depthrank.schema.request import Answer
from depthrank.schema.wire_arrow import decode_arrow
from depthrank.schema.wire_events import EventColumns, decode_events
from depthrank.schema.wire_items import decode_upsert
from depthrank.schema.wire_json import MalformedBodyError, TooLargeError, check_body_size, decode_json
from depthrank.schema.wire_msgpack import decode_msgpack
from depthrank.schema.wire_request import check_request, decode_request, read_request

__all__ = [
    "EventColumns",
    "MalformedBodyError",
    "TooLargeError",
    "check_body_size",
    "check_request",
    "decode_arrow",
    "decode_events",
    "decode_json",
    "decode_msgpack",
    "decode_request",
    "decode_upsert",
    "encode_answer",
    "encode_answer_msgpack",
    "read_request",
]

_ENCODER = msgspec.json.Encoder()
_MSGPACK_ENCODER = msgspec.msgpack.Encoder()


def encode_answer(answer: Answer) -> bytes:
    """The answer as JSON; a number that JSON cannot hold becomes null."""
    return _ENCODER.encode(_for_client(answer))


def encode_answer_msgpack(answer: Answer) -> bytes:
    """The answer as MessagePack, with the names of the JSON."""
    return _MSGPACK_ENCODER.encode(_for_client(answer))


def _for_client(answer: Answer) -> Answer:
    """Without what is for the house."""
    return msgspec.structs.replace(answer, record=msgspec.UNSET, spent=msgspec.UNSET)

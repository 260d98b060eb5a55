"""What the front and its engine processes tell each other: MessagePack, each message behind its length (4 bytes, little
endian).

Both ends are started from the same files, so there is no version to negotiate. Times are readings of the monotonic
clock, which the processes of one machine share. Arrays cross as their bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from depthrank.routing.economy import Economy
from depthrank.schema import Answer, Limits, Request

HEAD = struct.Struct("<I")
_ARRAY = 1  # extension type: dtype, a NUL, bytes of a 1-d array


class Start(msgspec.Struct, tag=True):
    """The first message to an engine: what to open, and how."""

    log: str
    limits: Limits
    user_state_bytes: int | None
    hot_row_bytes: int = 0


class Load(msgspec.Struct, tag=True):
    """Load a model version and keep it under ``version``. ``artifact``: where it came from, with this machine's
    policies beside it, as long as that still holds the model ``model_id``; else ``copy``, which always does.
    ``deltas``: those that are applied, in their order."""

    call: int
    version: str
    artifact: str
    copy: str
    model_id: str
    deltas: list[str] = []


class ApplyDelta(msgspec.Struct, tag=True):
    """Put the delta at a path into service, beside ranking."""

    call: int
    version: str
    path: str


class Unload(msgspec.Struct, tag=True):
    """Let a version go."""

    call: int
    version: str


class Warm(msgspec.Struct, tag=True):
    """Make the first request to a version as fast as the next ones."""

    call: int
    version: str


class Forget(msgspec.Struct, tag=True):
    """Drop what is held of a user whom the log has erased."""

    call: int
    user: str


class Seen(msgspec.Struct, array_like=True):
    """How far the log had come when a message was sent: what it acknowledged must be visible."""

    position: int = -1
    upsert: int = -1


class CatchUp(msgspec.Struct, tag=True):
    """Read what the log has acknowledged."""

    call: int
    seen: Seen


class Rank(msgspec.Struct, tag=True):
    """Requests to one version that start together (docs/decisions/0032)."""

    call: int
    version: str
    seen: Seen
    asked: list[Asked]


class Asked(msgspec.Struct, array_like=True):
    """One request as it is to be ranked."""

    request: dict[str, Any]
    request_id: str
    arrived_s: float
    price: float | None = None
    record: bool = False
    checked: bool = True

    def restored(self) -> Request:
        """The request again."""
        return Request(**self.request)


class Fault(msgspec.Struct, tag=True):
    """Why something failed: the name of an error the front knows, or else the traceback for its log."""

    kind: str
    message: str
    problems: list[tuple[str, str, str, str | None]] = []
    trace: str = ""


class Outcome(msgspec.Struct, tag=True):
    """One request's answer."""

    answer: Answer


class Ranked(msgspec.Struct, tag=True):
    """The outcomes of a ``Rank``, in its order; ``busy_s``, ``thread_s``: from its decoding to this encoding."""

    call: int
    outcomes: list[Outcome | Fault]
    busy_s: float
    thread_s: float


class Done(msgspec.Struct, tag=True):
    """A call that returns nothing has been carried out."""

    call: int


class Failed(msgspec.Struct, tag=True):
    """A call could not be carried out."""

    call: int
    fault: Fault


class Loaded(msgspec.Struct, tag=True):
    """A version is ready to be warmed."""

    call: int
    version: str
    economy: Economy
    info: dict[str, Any]


class Report(msgspec.Struct, tag=True):
    """What an engine measures of itself, by version, now and then."""

    economies: dict[str, Economy]
    measures: dict[str, dict[str, float]]


ToEngine = Start | Load | ApplyDelta | Unload | Warm | Forget | CatchUp | Rank
ToFront = Ranked | Done | Failed | Loaded | Report


def asked(
    request: Request, request_id: str, arrived_s: float, price: float | None, record: bool, *, checked: bool = True
) -> Asked:
    """A request on its way to an engine."""
    return Asked(
        {name: getattr(request, name) for name in Request.__struct_fields__}, request_id, arrived_s, price, record
    )


def encode(message: ToEngine | ToFront) -> bytes:
    """A message behind its length."""
    body = _encoder.encode(message)
    return HEAD.pack(len(body)) + body


class Frames:
    """Cuts what arrives into messages of one direction."""

    def __init__(self, kinds: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds, ext_hook=_array)
        self._held = bytearray()

    def feed(self, arrived: bytes) -> Iterator[Any]:
        """The messages that are whole by now. Raises msgspec.DecodeError for what is none."""
        self._held += arrived
        start = 0
        while len(self._held) - start >= HEAD.size:
            (size,) = HEAD.unpack_from(self._held, start)
            end = start + HEAD.size + size
            if len(self._held) < end:
                break
            body = bytes(self._held[start + HEAD.size : end])
            start = end
            yield self._decoder.decode(body)
        del self._held[:start]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biuf":
        return msgspec.msgpack.Ext(_ARRAY, value.dtype.str.encode() + b"\0" + np.ascontiguousarray(value).tobytes())
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} has no place in a request")


def _array(code: int, data: memoryview) -> object:
    if code != _ARRAY:
        raise ValueError(f"extension type {code}")
    kind, _, raw = bytes(data).partition(b"\0")
    return np.frombuffer(raw, np.dtype(kind.decode()))


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)

"""Tensors of the Open Inference Protocol v2: as JSON, or as bytes after the JSON (the binary-data extension).

A body with the extension is the JSON header, whose length ``Inference-Header-Content-Length`` tells, and then the data
of each tensor that has ``binary_data_size``, in their order, little-endian, row-major; an element of BYTES is its
length (uint32) and its bytes.

Source: https://github.com/open-inference/open-inference-protocol and Triton's extension_binary_data.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from depthrank.errors import FieldProblem, RequestError
from depthrank.schema import Limits
from depthrank.schema.collect import describe
from depthrank.schema.wire import MalformedBodyError
from depthrank.schema.wire_json import Plain, decode_json

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"{prefix}{8 * size}": np.dtype(f"<{kind}{size}") for prefix, kind in (("INT", "i"), ("UINT", "u"))
       for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}  # fmt: skip
JSON_TYPES: dict[str, frozenset[type]] = {"b": frozenset({bool}), "i": frozenset({int}), "u": frozenset({int})}
FLOATS: frozenset[type] = frozenset({int, float})


@dataclass(frozen=True)
class Tensor:
    """``values``: numbers as a flat array of the datatype, BYTES as texts."""

    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[str]


def read_tensors(body: bytes, header_length: str | None, limits: Limits) -> tuple[Plain, dict[str, Tensor]]:
    """The JSON of an inference request, and its inputs. Raises MalformedBodyError, TooLargeError, RequestError."""
    length = len(body) if header_length is None else _length(header_length, len(body))
    header = decode_json(body[:length], limits)
    inputs = header.get("inputs")
    if not isinstance(inputs, list):
        raise _wrong("$.inputs", inputs, "a list of tensors")
    binary = memoryview(body)[length:]
    tensors: dict[str, Tensor] = {}
    for i, given in enumerate(inputs):
        path = f"$.inputs[{i}]"
        name, size = _name(given, path), _binary_size(given, path)
        if name in tensors:
            raise _wrong(f"{path}.name", name, "each input once")
        if size > len(binary):
            raise MalformedBodyError(f"the body ends within the binary data of input {name[:80]!r}")
        tensors[name] = _tensor(given, path, binary[:size] if size >= 0 else None)
        binary = binary[max(size, 0) :]
    if len(binary):
        raise MalformedBodyError(f"{len(binary):,} bytes follow the data of the last input")
    return header, tensors


def write_tensors(
    header: Mapping[str, Any], outputs: Mapping[str, Tensor], binary: frozenset[str]
) -> tuple[bytes, int]:
    """The body of an answer and the length of its JSON; the outputs in ``binary`` follow it as bytes."""
    told, parts = [], []
    for name, tensor in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if name in binary:
            data = _to_bytes(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        else:
            values = tensor.values
            entry["data"] = values if isinstance(values, list) else values.tolist()
        told.append(entry)
    text = msgspec.json.encode({**header, "outputs": told})
    return b"".join([text, *parts]), len(text)


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise MalformedBodyError("Inference-Header-Content-Length must be the length of the JSON, within the body")
    return int(text)


def _name(given: Any, path: str) -> str:
    if not isinstance(given, dict):
        raise _wrong(path, given, "a tensor: name, datatype, shape and data")
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise _wrong(f"{path}.name", name, "a name")
    return name


def _binary_size(given: dict[str, Any], path: str) -> int:
    """Bytes of the tensor after the JSON; -1 where its data are in the JSON."""
    parameters = given.get("parameters")
    if parameters is None:
        return -1
    if not isinstance(parameters, dict):
        raise _wrong(f"{path}.parameters", parameters, "an object")
    size = parameters.get("binary_data_size")
    if size is None:
        return -1
    if type(size) is not int or size < 0:
        raise _wrong(f"{path}.parameters.binary_data_size", size, "a number of bytes")
    return size


def _tensor(given: dict[str, Any], path: str, binary: memoryview | None) -> Tensor:
    shape, datatype = given.get("shape"), given.get("datatype")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        raise _wrong(f"{path}.shape", shape, "a list of sizes")
    if datatype != BYTES and datatype not in DTYPES:
        raise _wrong(f"{path}.datatype", datatype, "one of " + ", ".join([*DTYPES, BYTES]))
    assert isinstance(datatype, str)
    count = math.prod(shape)
    if binary is not None:
        values = _texts(binary, path) if datatype == BYTES else _numbers(binary, DTYPES[datatype], path)
    else:
        values = _from_json(given.get("data"), datatype, path)
    if len(values) != count:
        raise _wrong(f"{path}.data", f"{len(values)} values", f"{count} values, as the shape says")
    return Tensor(datatype, tuple(shape), values)


def _numbers(binary: memoryview, dtype: np.dtype[Any], path: str) -> NDArray[Any]:
    if len(binary) % dtype.itemsize:
        raise _wrong(f"{path}.parameters.binary_data_size", len(binary), f"a multiple of {dtype.itemsize} bytes")
    return np.frombuffer(binary, dtype)


def _texts(binary: memoryview, path: str) -> list[str]:
    """Elements of BYTES, each after its length."""
    found, at, end = [], 0, len(binary)
    while at < end:
        stop = at + 4 + (struct.unpack_from("<I", binary, at)[0] if at + 4 <= end else end)
        if stop > end:
            raise _wrong(path, "BYTES that end early", "each element after its length (uint32)")
        found.append(_utf8(bytes(binary[at + 4 : stop]), path))
        at = stop
    return found


def _utf8(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _wrong(path, data[:40], "text in UTF-8") from None


def _from_json(data: Any, datatype: str, path: str) -> NDArray[Any] | list[str]:
    if not isinstance(data, list):
        raise _wrong(f"{path}.data", data, "a list of values")
    flat = list(_flattened(data))
    kinds = set(map(type, flat))
    if datatype == BYTES:
        if kinds - {str}:
            raise _wrong(f"{path}.data", next(v for v in flat if type(v) is not str), "texts")
        return flat
    dtype = DTYPES[datatype]
    if kinds - JSON_TYPES.get(dtype.kind, FLOATS):
        wrong = next(v for v in flat if type(v) not in JSON_TYPES.get(dtype.kind, FLOATS))
        raise _wrong(f"{path}.data", wrong, f"numbers of {datatype}")
    try:
        return np.array(flat, dtype)
    except OverflowError:
        raise _wrong(f"{path}.data", "a number out of range", f"numbers of {datatype}") from None


def _flattened(data: Sequence[Any]) -> Iterator[Any]:
    """Values in row-major order; the depth was checked with the body."""
    for value in data:
        if isinstance(value, list):
            yield from _flattened(value)
        else:
            yield value


def _to_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, list):
        encoded = [text.encode() for text in tensor.values]
        return b"".join(part for data in encoded for part in (struct.pack("<I", len(data)), data))
    return tensor.values.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def _wrong(path: str, found: object, expected: str) -> RequestError:
    shown = found if isinstance(found, str) else describe(found)
    return RequestError("the inference request is wrong:", [FieldProblem(path, shown[:80], expected)])

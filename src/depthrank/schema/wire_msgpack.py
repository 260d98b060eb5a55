"""A MessagePack body to plain data. Columns of numbers may be extension values, which become arrays as they are.

Extension types: 1 int32, 2 int64, 3 float32, 4 float64; the data are the numbers, little-endian, one after the other.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from depthrank.schema.collect import describe
from depthrank.schema.request import Limits
from depthrank.schema.wire_json import MalformedBodyError, Plain, check_body_size, check_depth

EXTENSIONS: dict[int, np.dtype[Any]] = {1: np.dtype("<i4"), 2: np.dtype("<i8"), 3: np.dtype("<f4"), 4: np.dtype("<f8")}


def decode_msgpack(body: bytes, limits: Limits) -> Plain:
    """The MessagePack map in ``body``, extension values as arrays. Raises TooLargeError, MalformedBodyError."""
    check_body_size(len(body), limits)
    try:
        plain = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as error:
        raise MalformedBodyError(f"the body is not MessagePack: {error}") from None
    except RecursionError:
        raise MalformedBodyError("the body nests too deep") from None
    check_depth(plain, limits.max_depth)
    if not isinstance(plain, dict):
        raise MalformedBodyError(f"the body must be a MessagePack map; found {describe(plain)}")
    check_names(plain)
    return plain


def _array(code: int, data: memoryview) -> Any:
    kind = EXTENSIONS.get(code)
    if kind is None:
        known = ", ".join(f"{number} {dtype.name}" for number, dtype in EXTENSIONS.items())
        raise MalformedBodyError(f"extension type {code} is not known; there are {known}")
    if len(data) % kind.itemsize:
        raise MalformedBodyError(f"an extension value of {len(data):,} bytes is no column of {kind.name}")
    return np.frombuffer(data, kind)


def check_names(plain: Any) -> None:
    """Raises MalformedBodyError for a map whose names are no text; the depth is known to be small."""
    level = [plain]
    while level:
        maps = [value for value in level if isinstance(value, dict)]
        for found in maps:
            for name in found:
                if type(name) is not str:
                    raise MalformedBodyError(f"names in a map must be text; found {describe(name)}")
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [child for children in inner for child in children if isinstance(child, (dict, list))]


_DECODER = msgspec.msgpack.Decoder(ext_hook=_array)

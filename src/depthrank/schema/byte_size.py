"""Sizes as people write them ("200MB", "1.5GiB"); everything inside is whole bytes."""

from __future__ import annotations

import re

_BYTES_BY_UNIT = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES_BY_UNIT |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$")
_MOST = 1 << 50


class ByteSize(int):
    """A positive number of bytes, written 4096, "200MB" or "1.5GiB" in YAML."""

    @classmethod
    def parse(cls, value: object) -> ByteSize:
        """Bytes of ``value``; raises ValueError with the accepted forms."""
        match = _PATTERN.match(value) if isinstance(value, str) else None
        if match is not None:
            size = float(match[1]) * _BYTES_BY_UNIT[match[2]]
        elif isinstance(value, int) and not isinstance(value, bool):
            size = value
        else:
            raise ValueError('a size such as 4096, "200MB" or "1.5GiB"')
        if not 1 <= size <= _MOST:
            raise ValueError("a size from 1 byte to 1024TiB")
        return cls(round(size))

    def __str__(self) -> str:
        return f"{int(self)}B"

"""Durations as people write them ("30m", "7d") and time units; everything inside is integer milliseconds."""

from __future__ import annotations

import re

_MS_BY_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_LONGEST_MS = 5_200 * _MS_BY_UNIT["w"]  # keeps every sum with a time well inside int64
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")


class Duration(int):
    """A positive number of milliseconds, written "90s", "30m", "6h", "7d" or "2w" in YAML."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Milliseconds of ``text``; raises ValueError with the accepted forms."""
        match = _PATTERN.match(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError('a duration such as "90s", "30m", "6h", "7d" or "2w"')
        milliseconds = float(match[1]) * _MS_BY_UNIT[match[2]]
        if not 1 <= milliseconds <= _LONGEST_MS:
            raise ValueError("a duration from 1ms to 5200w (a hundred years)")
        return cls(round(milliseconds))

    def __str__(self) -> str:
        for unit in ("w", "d", "h", "m", "s"):
            if self % _MS_BY_UNIT[unit] == 0:
                return f"{self // _MS_BY_UNIT[unit]}{unit}"
        return f"{int(self)}ms"

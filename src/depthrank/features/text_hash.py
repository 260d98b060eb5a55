"""Words of a text -> hashed ids: the same on every machine and in every version of Python."""

from __future__ import annotations

import re
from functools import lru_cache

from blake3 import blake3

from depthrank.features.layout import FIRST_KNOWN

_WORD = re.compile(r"\w+")
_MAX_CHARS = 8_192  # the rest of a longer text is not read: a million characters cost no more than these


@lru_cache(maxsize=65_536)
def word_id(word: str, buckets: int) -> int:
    """An id from 2 to buckets + 1: the first 8 bytes of blake3 (little-endian) modulo ``buckets``."""
    digest = blake3(word.encode("utf-8", "surrogatepass")).digest(length=8)
    return FIRST_KNOWN + int.from_bytes(digest, "little") % buckets


def word_ids(text: str, buckets: int, max_values: int) -> list[int]:
    """Ids of the first ``max_values`` lower-cased words."""
    ids: list[int] = []
    for match in _WORD.finditer(text[:_MAX_CHARS].lower()):
        if len(ids) == max_values:
            break
        ids.append(word_id(match[0], buckets))
    return ids

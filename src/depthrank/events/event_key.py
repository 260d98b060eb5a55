"""The key under which an event id is remembered."""

from __future__ import annotations

from blake3 import blake3


def event_key(event_id: str) -> bytes:
    """128 bits of BLAKE3: no two ids of one log meet (about 2**-48 for 10**12 events)."""
    return blake3(event_id.encode()).digest(length=16)

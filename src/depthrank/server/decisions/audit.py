"""The audit of erasures: one line each, appended and synced, chained by hashes; it names no user.

A line holds a keyed hash of the user id, so that whoever knows an id and the key can prove that it was erased, and
nobody can read ids from it. ``prev`` is the hash of the line before: a line that was changed or removed breaks the
chain.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

AUDIT_NAME, KEY_NAME = "audit.jsonl", "audit.key"
START = "0" * 64


class Audit:
    """``clock``: milliseconds since 1970. Raises OSError where the folder cannot be written."""

    def __init__(self, folder: Path, clock: Callable[[], int]) -> None:
        self.path = folder / AUDIT_NAME
        self._folder, self._clock = folder, clock
        self._lock = threading.Lock()

    def erased(self, user: str, facts: dict[str, Any]) -> None:
        """Append an erasure; returns when it is durable."""
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            entry = {
                "at_ms": self._clock(),
                "what": "erase",
                "user_hash": self.hash_of(user),
                **facts,
                "prev": self._last(),
            }
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def hash_of(self, user: str) -> str:
        """The user's keyed hash; the key is made at first use, readable by its owner only."""
        return blake3(user.encode("utf-8", "surrogatepass"), key=self._key()).hexdigest()

    def _key(self) -> bytes:
        path = self._folder / KEY_NAME
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
        return path.read_bytes()

    def _last(self) -> str:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return blake3(lines[-1]).hexdigest() if lines else START


def broken_at(path: Path) -> int | None:
    """The first line, from 1, whose ``prev`` is not the hash of the line before it; None: the chain is whole."""
    before = START
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if msgspec.json.decode(line, type=dict[str, Any]).get("prev") != before:
            return number
        before = blake3(line).hexdigest()
    return None

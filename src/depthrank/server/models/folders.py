"""Which folders a client may name: only those inside the configured ones, after every link has been followed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depthrank.errors import FieldProblem, RequestError

DELTA_MARKER = "delta.json"
WANTED = "the name of an artifact folder inside a model folder of this server"


def allowed_artifact(given: str, folders: Sequence[Path], marker: str = "manifest.json") -> Path:
    """The artifact folder (for a delta: that with the file ``marker``) that ``given`` names, relative to a folder of
    ``folders`` or absolute inside one.

    Raises RequestError, which tells the client nothing of what else is on the disk.
    """
    for folder in folders:
        try:
            root = folder.resolve(strict=True)
            found = (root / given).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # missing, a NUL in it, links in a circle
            continue
        if found != root and found.is_relative_to(root) and (found / marker).is_file():
            return found
    raise RequestError("no model can be loaded from there:", [FieldProblem("$.path", repr(given[:200]), WANTED)])

"""A refusal: the node that cannot be shared, why, and where the model's own code asks for it."""

from __future__ import annotations

from depthrank.errors import SharingError


class Refused(SharingError):
    """The module cannot be shared at all.

    ``reason`` says why in one sentence, ``node`` names the captured operation, ``source`` is the line of the model.
    """

    def __init__(self, reason: str, node: str = "", source: str = "") -> None:
        self.reason = reason
        self.node = node
        self.source = source
        where = f"\n  node: {node}" if node else ""
        line = f"\n  source: {source}" if source else ""
        super().__init__(f"cannot share this module: {reason}{where}{line}")


class Faulty(Refused):
    """A rewrite failed: a fault of the compiler, not of the module."""


def source_line(stack_trace: str | None) -> str:
    """The innermost frame of a captured stack trace that is not torch's own: ``file:line  code``."""
    if not stack_trace:
        return ""
    lines = stack_trace.strip().splitlines()
    frames: list[tuple[str, str]] = []
    for k, text in enumerate(lines):
        text = text.strip()
        if text.startswith("File "):
            code = lines[k + 1].strip() if k + 1 < len(lines) and not lines[k + 1].strip().startswith("File ") else ""
            frames.append((text, code))
    own = [f for f in frames if "/torch/" not in f[0] and "<eval_with_key>" not in f[0]] or frames
    if not own:
        return ""
    place, code = own[-1]
    parts = place.removeprefix("File ").split(",")
    path = parts[0].strip().strip('"')
    line = parts[1].strip().removeprefix("line ") if len(parts) > 1 else "?"
    return f"{path}:{line}  {code}".rstrip()

"""Code in Markdown: blocks that run, and blocks that say why they must not."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"(?P<before>[^\n]*\n?[^\n]*\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block. not_run: the reason in ``<!-- not run: ... -->`` on the line before it, or None."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks_of(text: str, language: str) -> list[Block]:
    """The fenced blocks of a language, in order."""
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] == language:
            reason = _NOT_RUN.search((match["before"] or "").rstrip().rpartition("\n")[2])
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(Block(language, match["code"], line, reason["reason"] if reason else None))
    return found
